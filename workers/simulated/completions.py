"""The responses of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chunks import ChunkStream
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts, whole_timings
from vllama_pool.workers.simulated.logprobs import completion_logprobs, prompt_logprobs
from vllama_pool.workers.simulated.streams import ResponseHead, Writer


class CompletionStream(ChunkStream):
    object = "text_completion"

    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        super().__init__(head, counts, writer)
        self._echoed = [not (head.echo or head.return_token_ids)] * head.sequences
        """The prompt was sent."""
        self._offsets = [0] * head.sequences
        self._plain = self._plain and not head.echo
        self._texts = [prefix + b'"text":' for prefix in self._prefixes]
        self._tail = (
            b',"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
        )

    def plain(self, index: int, token: Token) -> None:
        self._write(self._texts[index] + token.json + self._tail)

    def choice(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any]:
        head = self.head
        first = not self._echoed[index]
        self._echoed[index] = True
        echo = _echo(head, index) if first else ""
        shown = () if first and head.prompt_only else group
        choice: dict[str, Any] = {"text": echo + "".join(token.text for token in shown), "logprobs": None}
        if head.logprobs is not None:
            prompt = head.prompt(index) if first and head.echo else ()
            logprobs = completion_logprobs(prompt, shown, head.logprobs, self._offsets[index])
            choice["logprobs"] = logprobs
            if logprobs["tokens"]:
                self._offsets[index] = logprobs["text_offset"][-1] + len(logprobs["tokens"][-1])
        choice["finish_reason"] = finish or None
        choice["stop_reason"] = stop_reason
        choice["prompt_token_ids"] = list(head.prompt(index)) if first else None
        choice["token_ids"] = self._ids(group)
        return choice

    def final_usage(self) -> dict[str, Any]:
        details = {"prompt_tokens_details": {"cached_tokens": 0}} if self.head.prompt_details else {}
        return {**self.counts.final(), **details}


def completion_response(head: ResponseHead, counts: Counts, sequences: Sequence[Collected]) -> dict[str, Any]:
    details = {"cached_tokens": 0, "created_cache_tokens": None, "multimodal_tokens": None}
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": [_choice(head, index, collected) for index, collected in enumerate(sequences)],
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": {
            **counts.final(),
            "prompt_tokens_details": details if head.prompt_details else None,
            "completion_tokens_details": None,
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": whole_timings(counts) if head.timings else None,
    }


def _choice(head: ResponseHead, index: int, collected: Collected) -> dict[str, Any]:
    prompt = head.prompt(index)
    shown: Sequence[Token] = () if head.prompt_only else collected.tokens
    logprobs = None
    if head.logprobs is not None:
        logprobs = completion_logprobs(prompt if head.echo else (), shown, head.logprobs, 0)
    echoed = head.echo and head.logprobs is not None
    return {
        "index": index,
        "text": _echo(head, index) + ("" if head.prompt_only else collected.text(Kind.CONTENT)),
        "logprobs": logprobs,
        "finish_reason": collected.finish,
        "stop_reason": collected.stop_reason,
        "token_ids": collected.ids if head.return_token_ids else None,
        "prompt_logprobs": prompt_logprobs(prompt, head.logprobs or 0) if echoed else None,
        "prompt_token_ids": list(prompt) if head.return_token_ids else None,
        "routed_experts": None,
    }


def _echo(head: ResponseHead, index: int) -> str:
    """Token ids replace the prompt's text."""
    return head.echo[index // head.choices] if head.echo and not head.return_token_ids else ""

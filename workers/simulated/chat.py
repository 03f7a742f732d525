"""The responses of /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chunks import ChunkStream
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts, whole_timings
from vllama_pool.workers.simulated.logprobs import chat_logprobs
from vllama_pool.workers.simulated.streams import ResponseHead, Writer


def call_id() -> str:
    return f"chatcmpl-tool-{secrets.token_hex(8)}"


class ChatStream(ChunkStream):
    object = "chat.completion.chunk"

    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        super().__init__(head, counts, writer)
        self._calls = [-1] * head.sequences
        """Index of the last call."""
        self._deltas = [prefix + b'"delta":{"content":' for prefix in self._prefixes]
        self._tail = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        if not head.include_reasoning:
            self._tail = b',"reasoning":null' + self._tail

    def open(self) -> None:
        for index in range(self.head.sequences):
            ids = list(self.head.prompt(index)) if self.head.return_token_ids else None
            extra: dict[str, Any] = {"prompt_token_ids": ids, "prompt_text": None}
            if self.head.continuous_usage and self.head.include_usage:
                usage = self.running_usage(index)
                usage = {**usage, "total_tokens": usage["prompt_tokens"], "completion_tokens": 0}
                if self.head.reasoning:
                    usage["completion_tokens_details"] = {"reasoning_tokens": 0}
                extra["usage"] = usage
            choice = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            self.write(index, choice, extra)

    def plain(self, index: int, token: Token) -> None:
        self._write(self._deltas[index] + token.json + self._tail)

    def choice(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        delta = self._make_delta(index, group)
        hidden = not self.head.include_reasoning and group[0].kind in (Kind.REASONING, Kind.HIDDEN)
        if not delta and not finish and (self._plain or hidden):
            return None
        choice: dict[str, Any] = {"delta": delta, "logprobs": None}
        if self.head.logprobs is not None and self.head.include_reasoning:
            choice["logprobs"] = {"content": chat_logprobs(group, self.head.logprobs)}
        choice["finish_reason"] = finish or None
        if finish:
            choice["stop_reason"] = stop_reason
        choice["token_ids"] = self._ids(group)
        return choice

    def running_usage(self, index: int) -> dict[str, Any]:
        reasoning = {"reasoning_tokens": self.counts.reasoning[index]} if self.head.reasoning else None
        return {**self.counts.running(index), "completion_tokens_details": reasoning}

    def final_usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = self.counts.final()
        if self.head.prompt_details:
            usage["prompt_tokens_details"] = {"cached_tokens": 0, "created_cache_tokens": 0}
        if self.head.reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": sum(self.counts.reasoning)}
        return usage

    def _make_delta(self, index: int, group: Sequence[Token]) -> dict[str, Any]:
        kind = group[0].kind
        text = "".join(token.text for token in group)
        if kind is Kind.CONTENT:
            return {"content": text} if self.head.include_reasoning else {"content": text, "reasoning": None}
        if kind is Kind.REASONING:
            return {"reasoning": text} if self.head.include_reasoning else {}
        if kind is Kind.CALL:
            self._calls[index] += 1
            return self._call(index, {"id": call_id(), "type": "function"}, {"name": text})
        if kind is Kind.ARGUMENTS:
            return self._call(index, {}, {"arguments": text})
        return {}

    def _call(self, index: int, fields: dict[str, Any], function: dict[str, str]) -> dict[str, Any]:
        call = self._calls[index]
        most = self.head.max_calls
        shown = [] if most is not None and call >= most else [{**fields, "index": call, "function": function}]
        return {"content": None, "tool_calls": shown}


def chat_response(head: ResponseHead, counts: Counts, sequences: Sequence[Collected]) -> dict[str, Any]:
    details = {"cached_tokens": 0, "created_cache_tokens": 0, "multimodal_tokens": None}
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [_choice(head, index, collected) for index, collected in enumerate(sequences)],
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": {
            **counts.final(),
            "prompt_tokens_details": details if head.prompt_details else None,
            "completion_tokens_details": ({"reasoning_tokens": sum(counts.reasoning)} if head.reasoning else None),
        },
        "prompt_logprobs": None,
        "prompt_token_ids": list(head.prompts[0]) if head.return_token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": whole_timings(counts) if head.timings else None,
    }


def _choice(head: ResponseHead, index: int, collected: Collected) -> dict[str, Any]:
    logprobs = None
    if head.logprobs is not None and head.include_reasoning:
        logprobs = {"content": chat_logprobs(collected.tokens, head.logprobs)}
    return {
        "index": index,
        "message": _message(head, collected),
        "logprobs": logprobs,
        "finish_reason": collected.finish,
        "stop_reason": collected.stop_reason,
        "token_ids": collected.ids if head.return_token_ids else None,
        "routed_experts": None,
    }


def _message(head: ResponseHead, collected: Collected) -> dict[str, Any]:
    """The content beside a call that the model chose is null, not ""."""
    content: str | None = collected.content or None
    calls = collected.calls(head.max_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": (None if head.automatic else "") if calls else content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if calls:
        message["tool_calls"] = [
            {"id": call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    reasoning = collected.text(Kind.REASONING) if head.include_reasoning else ""
    message["reasoning"] = reasoning or None
    return message

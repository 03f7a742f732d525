"""Responses without streaming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.logprobs import chat_logprobs, completion_logprobs
from vllama_pool.workers.simulated.streams import ResponseHead


class Collector:
    """Collects tokens, and calls `done` at the end."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.tokens: list[Token] = []
        self.finish = ""
        self.stop_reason: str | None = None
        self._done = done

    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        self.tokens.append(token)
        if finish:
            self.finish, self.stop_reason = finish, stop_reason
            self._done()

    def abort(self) -> None:
        self.finish = "abort"
        self._done()

    def text(self, *kinds: Kind) -> str:
        return "".join(token.text for token in self.tokens if token.kind in kinds)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def chat_response(
    head: ResponseHead,
    collected: Collector,
    *,
    usage: dict[str, Any],
    metrics: dict[str, Any] | None,
    call_id: str,
    auto: bool,
) -> dict[str, Any]:
    """With `auto`, the content beside a call is null, not ""."""
    content: str | None = collected.text(Kind.CONTENT) or None
    name = collected.text(Kind.CALL)
    reasoning = collected.text(Kind.REASONING) if head.include_reasoning else ""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": (None if auto else "") if name else content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if name:
        function = {"name": name, "arguments": collected.text(Kind.ARGUMENTS)}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    message["reasoning"] = reasoning or None
    logprobs = None
    if head.logprobs is not None and head.include_reasoning:
        logprobs = {"content": chat_logprobs(collected.tokens, head.logprobs)}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": collected.finish,
        "stop_reason": collected.stop_reason,
        "token_ids": collected.ids if head.return_token_ids else None,
        "routed_experts": None,
    }
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": usage,
        "prompt_logprobs": None,
        "prompt_token_ids": list(head.prompt_ids) if head.return_token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": metrics,
    }


def completion_response(
    head: ResponseHead, collected: Collector, *, usage: dict[str, Any], metrics: dict[str, Any] | None, echo: str
) -> dict[str, Any]:
    logprobs = None
    if head.logprobs is not None:
        logprobs = completion_logprobs(collected.tokens, head.logprobs, len(echo))
    choice = {
        "index": 0,
        "text": echo + collected.text(Kind.CONTENT),
        "logprobs": logprobs,
        "finish_reason": collected.finish,
        "stop_reason": collected.stop_reason,
        "token_ids": collected.ids if head.return_token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": list(head.prompt_ids) if head.return_token_ids else None,
        "routed_experts": None,
    }
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": head.fingerprint,
        "usage": usage,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": metrics,
    }

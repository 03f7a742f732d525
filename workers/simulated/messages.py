"""The responses of /v1/messages."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chat import call_id
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.streams import ResponseHead, Stream, Writer

BLOCKS: dict[Kind, dict[str, Any]] = {
    Kind.REASONING: {"type": "thinking", "thinking": ""},
    Kind.CONTENT: {"type": "text", "text": ""},
}
DELTAS = {
    Kind.REASONING: ("thinking_delta", "thinking"),
    Kind.CONTENT: ("text_delta", "text"),
    Kind.ARGUMENTS: ("input_json_delta", "partial_json"),
}


class MessagesStream(Stream):
    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        super().__init__(head, counts, writer)
        self._block: Kind | None = None
        self._index = 0
        self._calls = 0
        self._arguments = ""
        """Of the last call."""
        self._finish = ""
        self._stop_reason: str | None = None

    def open(self) -> None:
        message: dict[str, Any] = {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.head.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": sum(self.counts.prompts), "output_tokens": 0},
        }
        self._send("message_start", message=message)

    def group(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> None:
        kind = group[0].kind
        text = "".join(token.text for token in group)
        if finish:
            self._finish, self._stop_reason = finish, stop_reason
        if kind is Kind.CALL:
            self._call(text)
        elif kind in DELTAS and text and not (kind is Kind.ARGUMENTS and self._is_hidden):
            if kind in BLOCKS and self._block is not kind:
                self._start(kind, BLOCKS[kind])
            if kind is Kind.ARGUMENTS:
                self._arguments += text
            name, key = DELTAS[kind]
            self._send("content_block_delta", delta={"type": name, key: text}, index=self._index)

    def end(self) -> None:
        self._stop()
        reason, sequence = stop(self._finish, self._stop_reason, called=bool(self._calls), complete=self._is_complete)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        self._send("message_delta", delta=delta, usage=usage(self.head, self.counts))
        self.empty()

    def empty(self) -> None:
        self._send("message_stop")

    def fail(self, error: ApiError) -> None:
        """Send an error that hides its status: vLLM fails to read its own chat's error."""
        given = repr(error.fields)
        given = given if len(given) <= 50 else f"{given[:25]}...{given[-24:]}"
        problem = (
            f"Field required [type=missing, input_value={given}, input_type=dict]\n"
            "    For further information visit https://errors.pydantic.dev/2.14/v/missing"
        )
        message = f"2 validation errors for ChatCompletionStreamResponse\nmodel\n  {problem}\nchoices\n  {problem}"
        self._send("error", error={"type": "internal_error", "message": message})

    @property
    def _is_hidden(self) -> bool:
        return self.head.max_calls is not None and self._calls > self.head.max_calls

    @property
    def _is_complete(self) -> bool:
        return bool(self._calls) and _is_json(self._arguments)

    def _call(self, name: str) -> None:
        self._calls += 1
        if self._is_hidden:
            return
        self._arguments = ""
        self._start(Kind.CALL, {"type": "tool_use", "id": call_id(), "name": name, "input": {}})

    def _start(self, kind: Kind, block: dict[str, Any]) -> None:
        self._stop()
        self._block = kind
        self._send("content_block_start", content_block=block, index=self._index)

    def _stop(self) -> None:
        if self._block is None:
            return
        if self._block is Kind.REASONING:
            delta = {"type": "signature_delta", "signature": _signature()}
            self._send("content_block_delta", delta=delta, index=self._index)
        self._send("content_block_stop", index=self._index)
        self._block = None
        self._index += 1

    def _send(self, kind: str, **fields: Any) -> None:
        self._write(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields})))


def messages_response(head: ResponseHead, counts: Counts, sequences: Sequence[Collected]) -> dict[str, Any]:
    [collected] = sequences
    calls = collected.calls(head.max_calls)
    called = bool(calls)
    reason, sequence = stop(collected.finish, collected.stop_reason, called=called, complete=called)
    fields: dict[str, Any] = {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "content": _blocks(collected, calls),
        "model": head.model,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(head, counts),
    }
    return {key: value for key, value in fields.items() if value is not None}


def usage(head: ResponseHead, counts: Counts) -> dict[str, int]:
    fields = {"input_tokens": sum(counts.prompts), "output_tokens": counts.total}
    if head.prompt_details:
        fields |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return fields


def stop(finish: str, stop_reason: str | None, *, called: bool, complete: bool) -> tuple[str | None, str | None]:
    """Return `stop_reason` and `stop_sequence`."""
    if finish == "length":
        return "max_tokens", None
    if finish not in ("stop", "tool_calls"):
        return None, None
    if complete:
        return "tool_use", None
    if stop_reason is not None:
        return "stop_sequence", stop_reason
    return ("tool_use" if called else "end_turn"), None


def _blocks(collected: Collected, calls: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A text beside a call is missing, as in the chat's answer."""
    blocks: list[dict[str, Any]] = []
    thinking = collected.text(Kind.REASONING)
    if thinking:
        blocks.append({"type": "thinking", "thinking": thinking, "signature": _signature()})
    if collected.content and not calls:
        blocks.append({"type": "text", "text": collected.content})
    for name, arguments in calls:
        blocks.append({"type": "tool_use", "id": call_id(), "name": name, "input": json.loads(arguments)})
    return blocks or [{"type": "text", "text": ""}]


def _signature() -> str:
    return secrets.token_hex(16)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True

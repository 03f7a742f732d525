"""Streams of /v1/responses."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.openai.responses.reasoning import with_encrypted, with_encrypted_output
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.event_stream import DONE, INVALID_EVENT, EventStream
from vllama_pool.router.protocol.vllm.model_name import with_model
from vllama_pool.router.protocol.vllm.sse import payloads
from vllama_pool.router.protocol.vllm.whole_answer import STOPPED, AnswerUsage

_DELTA = b".delta\ndata: {"
"""In each event with a part of the answer, and nowhere else: JSON has no line ends."""
_BEFORE_CONTENT = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS = frozenset({"response.completed", "response.incomplete"})
_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
_STATUSES = {code: status for status, code in _CODES.items()}


class Error(msgspec.Struct, frozen=True, gc=False):
    message: str | None = None
    code: int | str | None = None


class Head(msgspec.Struct, frozen=True, gc=False):
    """The part of a response that the router reads."""

    model: str = ""
    status: str = ""
    error: Error | None = None
    usage: AnswerUsage | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    sequence_number: int | None = None
    response: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: api.VllmErrorBody | str | None = None
    message: str | None = None
    code: int | str | None = None


_decode = msgspec.json.Decoder(Event).decode
_decode_head = msgspec.json.Decoder(Head).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ResponsesStream(EventStream):
    """Ends with the response's last state: completed, incomplete or failed. Only events with a response are changed."""

    marks = ()

    __slots__ = ("_encrypted", "_last", "_response", "_sequence")

    def __init__(self, name: str, encrypted: bool = False) -> None:
        """`encrypted`: the client asked for `reasoning.encrypted_content`."""
        super().__init__(name)
        self._encrypted = encrypted
        self._response = b""
        """As it began."""
        self._sequence = -1
        """Number of the last event that was read."""
        self._last = b""
        """The latest events that passed unread."""

    def passed(self, data: bytes, count: int) -> bytes | None:
        if data.count(_DELTA) != count:
            return None
        if count:
            self._last = data
        return data

    def read(self, event: bytes, payload: bytes) -> bytes:
        try:
            read = _decode(payload)
            head = _decode_head(read.response) if read.response else Head()
        except api.INVALID_JSON:
            if payload != DONE:
                self.set_failure(502, INVALID_EVENT)
            return b""
        self._last = b""
        if read.sequence_number is not None:
            self._sequence = read.sequence_number
        if self._fails(read, head):
            return b""
        if read.type and read.type not in _BEFORE_CONTENT:
            self.begun = True
            self._events += read.type.endswith(".delta")
        if read.response:
            return self._with_response(read, read.response, head)
        if self._encrypted and read.type == "response.output_item.done":
            return _with_item(event, payload, read)
        return event

    def error_event(self, status: int, text: str) -> bytes:
        failed: dict[str, Any] = {
            **(_decode_fields(self._response) if self._response else {"object": "response", "model": self.name}),
            "status": "failed",
            "error": {"code": _CODES.get(status, "server_error"), "message": text},
        }
        failed.setdefault("output", [])
        return _event("response.failed", self._last_number() + 1, encode(failed))

    def _fails(self, read: Event, head: Head) -> bool:
        """Note a failure, wherever the worker tells it."""
        if read.error is not None:
            self.set_failure(errors.event_status(read.error), errors.explain_event(read.error))
        elif read.type == "error":
            error = api.VllmErrorBody(read.message, code=_STATUSES.get(str(read.code), read.code))
            self.set_failure(errors.event_status(error), errors.explain_event(error))
        elif read.type == "response.failed" or (read.type in _ENDS and head.status == "failed"):
            failure = head.error or Error()
            error = api.VllmErrorBody(failure.message, code=_STATUSES.get(str(failure.code), failure.code))
            self.set_failure(errors.event_status(error), errors.explain_event(error))
        elif read.type in _ENDS and head.status == "cancelled":
            self.set_failure(503, STOPPED)
        return self.failure is not None

    def _with_response(self, read: Event, response: msgspec.Raw, head: Head) -> bytes:
        kind = read.type
        named = with_model(bytes(response), head.model, self.name) if head.model else bytes(response)
        self._response = self._response or named
        if kind in _ENDS:
            named = with_encrypted_output(named) if self._encrypted else named
            kind = "response.incomplete" if head.status == "incomplete" else kind
            self._end(head)
        return _event(kind, read.sequence_number or 0, named)

    def _end(self, head: Head) -> None:
        if head.usage is not None:
            usage = head.usage.with_reason("")
            self.prompt_tokens, self.tokens = usage.prompt_tokens, usage.completion_tokens
        self.reason = head.status
        self.set_done()

    def _last_number(self) -> int:
        numbers = [_decode(payload).sequence_number for payload in payloads(self._last)[-1:]]
        return next((number for number in numbers if number is not None), self._sequence)


def _with_item(event: bytes, payload: bytes, read: Event) -> bytes:
    item = bytes(read.item)
    changed = with_encrypted(item)
    if changed == item:
        return event
    fields: dict[str, Any] = _decode_fields(payload)
    return b"event: %b\ndata: %b\n\n" % (read.type.encode(), encode({**fields, "item": msgspec.Raw(changed)}))


def _event(kind: str, number: int, response: bytes) -> bytes:
    data = b'{"response":%b,"sequence_number":%d,"type":"%b"}' % (response, number, kind.encode())
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

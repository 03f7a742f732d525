"""Streams of /v1/messages."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vllama_pool.router.protocol.error_bodies import anthropic_error
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.vllm import api, errors
from vllama_pool.router.protocol.vllm.event_stream import ENDED, INVALID_EVENT, EventStream
from vllama_pool.router.protocol.vllm.model_name import with_model
from vllama_pool.router.protocol.vllm.whole_answer import ABANDONED, STOPPED, AnswerUsage

FAILED = "the worker failed while it answered"
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_VLLM_ID, _ID = b'"id":"chatcmpl-', b'"id":"msg_'
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 503,
    "timeout_error": 504,
    "BadRequestError": 400,
    "NotFoundError": 404,
    "ServiceUnavailableError": 503,
}
"""HTTP status by the type of an error event: Anthropic's and vLLM's."""
_HIDDEN_ERROR = re.compile(r"validation errors? for ChatCompletionStreamResponse")
"""vLLM takes an error within a chat for an invalid event."""
_HIDDEN_CODE = re.compile(r"'code': ([45]\d\d)\b")


class _Delta(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    stop_reason: str | None = None


class _Message(msgspec.Struct, frozen=True, gc=False):
    model: str = ""
    usage: AnswerUsage | None = None


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    message: _Message | None = None
    delta: _Delta | None = None
    usage: AnswerUsage | None = None
    error: api.VllmErrorBody | str | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_message_id(document: bytes) -> bytes:
    """Give a whole message's id Anthropic's prefix in place of vLLM's. The id comes first."""
    return document.replace(_VLLM_ID, _ID, 1) if document.startswith(b"{" + _VLLM_ID) else document


class MessageStream(EventStream):
    """Ends with message_stop, also if the worker leaves it out after the reason for its end."""

    marks = (b'"message_', b'"error"', b"content_block_st", b"signature_delta", b"ping")

    __slots__ = ()

    def passed(self, data: bytes, count: int) -> bytes | None:
        return data

    def read(self, event: bytes, payload: bytes) -> bytes:
        try:
            decoded = _decode(payload)
        except api.INVALID_JSON:
            self.set_failure(502, INVALID_EVENT)
            return b""
        match decoded.type:
            case "message_start":
                return self._on_start(event, payload, decoded.message or _Message())
            case "content_block_start":
                self.begun = True
            case "content_block_delta":
                self.begun = True
                self._events += decoded.delta is None or decoded.delta.type != "signature_delta"
            case "message_delta":
                return self._on_finish(event, decoded)
            case "message_stop":
                return self._on_stop(event)
            case "error":
                self._on_error(decoded.error or "")
                return b""
        return event

    def end(self) -> bytes:
        return self._on_stop(_STOP) if self.reason else b""

    def error_event(self, status: int, text: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % encode(anthropic_error(status, text))

    def _on_start(self, event: bytes, payload: bytes, message: _Message) -> bytes:
        self._note(message.usage)
        if not message.model or message.model == self.name:
            return event.replace(_VLLM_ID, _ID, 1)
        fields: dict[str, Any] = _decode_fields(payload)
        named = with_model(bytes(fields["message"]), message.model, self.name)
        fields["message"] = msgspec.Raw(named.replace(_VLLM_ID, _ID, 1))
        return b"event: message_start\ndata: %b\n\n" % api.encode(fields)

    def _on_finish(self, event: bytes, decoded: _Event) -> bytes:
        self._note(decoded.usage)
        reason = decoded.delta.stop_reason if decoded.delta is not None else None
        if reason is None:  # vLLM's word for a request that it gave up
            self.set_failure(ABANDONED["abort"], STOPPED)
            return b""
        self.reason, self.begun = reason, True
        return event

    def _on_stop(self, event: bytes) -> bytes:
        if not self.reason:
            self.set_failure(502, ENDED)
            return b""
        self.set_done()
        return event

    def _on_error(self, error: api.VllmErrorBody | str) -> None:
        text = errors.explain_event(error)
        status = errors.event_status(error)
        if _HIDDEN_ERROR.search(text):
            found = _HIDDEN_CODE.search(text)
            self.set_failure(int(found[1]) if found else 500, FAILED)
            return
        if isinstance(error, api.VllmErrorBody) and error.code is None:
            status = _STATUSES.get(error.type or "", 500)
        self.set_failure(status, text)

    def _note(self, usage: AnswerUsage | None) -> None:
        if usage is not None:
            counts = usage.with_reason("")
            self.prompt_tokens, self.tokens = counts.prompt_tokens, counts.completion_tokens

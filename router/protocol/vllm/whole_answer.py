"""Passes an answer that is not streamed on to the client."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import msgspec

from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.errors import event_status, explain_event
from vllama_pool.router.protocol.vllm.model_name import with_model

ABANDONED: Mapping[str, int] = {"abort": 503, "error": 500}
"""HTTP status by finish reason, for requests that vLLM gave up."""
_GIVEN_UP: Mapping[str | None, int] = {"cancelled": 503, "failed": 500}
"""HTTP status by the status of a Response."""
STOPPED = "the worker stopped the request"
_REASONING = re.compile(rb'"reasoning":("(?:[^"\\]|\\.)*")')
"""In JSON, the quotes of a text are escaped, so this is always a field."""


class AnswerUsage(msgspec.Struct, frozen=True, gc=False):
    """The usage of any API: OpenAI's chat, or Responses and Anthropic."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    """Anthropic counts tokens of the cache apart."""
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def with_reason(self, reason: str) -> Usage:
        prompt = self.prompt_tokens
        if prompt is None:
            cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
            prompt = (self.input_tokens or 0) + cached
        completion = self.completion_tokens if self.completion_tokens is not None else self.output_tokens
        return Usage(prompt, completion or 0, reason)


class AnswerChoice(msgspec.Struct, frozen=True, gc=False):
    finish_reason: str | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The part of an answer that the router reads."""

    model: str = ""
    type: str = ""
    choices: list[AnswerChoice] | None = None
    usage: AnswerUsage | None = None
    stop_reason: str | None = None
    status: str | None = None
    error: api.VllmErrorBody | str | None = None
    """Of a proxy that answers with 200, or of a server that failed after its head."""

    @property
    def reason(self) -> str:
        if self.choices:
            return self.choices[0].finish_reason or ""
        return self.stop_reason or self.status or ""


_decode = msgspec.json.Decoder(Answer).decode


class WholeAnswer:
    """A `StreamTranslator` that collects a JSON document."""

    cut_off = False

    __slots__ = ("_adjust", "_body", "_name", "done", "failure", "usage")

    def __init__(self, name: str, adjust: Callable[[bytes], bytes] | None = None) -> None:
        """`name`: of the model, as the client spelled it. `adjust` changes the document further."""
        self._name = name
        self._adjust = adjust
        self._body: list[bytes] = []
        self.done = False
        self.failure: StreamFailure | None = None
        self.usage = Usage()

    @property
    def ready(self) -> bool:
        return self.done

    @property
    def begun(self) -> bool:
        return bool(self._body)

    def feed(self, data: bytes) -> bytes:
        self._body.append(data)
        return b""

    def finish(self) -> bytes:
        document = b"".join(self._body)
        try:
            answer = _decode(document)
            body = with_model(document, answer.model, self._name) if answer.model else document
        except api.INVALID_JSON:
            self.failure = StreamFailure(502, "the worker's answer is not valid JSON")
            return b""
        if answer.usage is not None:
            self.usage = answer.usage.with_reason(answer.reason)
        self.failure = _failure(answer)
        self.done = self.failure is None
        return body if self._adjust is None else self._adjust(body)

    def fail(self, text: str) -> bytes:
        """A whole answer fails before it begins."""
        return b""


def _failure(answer: Answer) -> StreamFailure | None:
    if answer.type == "message" and not answer.stop_reason:  # Anthropic's form of a request that vLLM gave up
        return abandoned("abort")
    if answer.status in _GIVEN_UP:
        return StreamFailure(_GIVEN_UP[answer.status], STOPPED)
    if answer.error is not None:
        return StreamFailure(event_status(answer.error), explain_event(answer.error))
    reasons: Collection[str | None] = [choice.finish_reason for choice in answer.choices or ()]
    return next((abandoned(reason) for reason in reasons if reason in ABANDONED), None)


def abandoned(reason: str | None) -> StreamFailure:
    return StreamFailure(ABANDONED[reason or ""], STOPPED)


def both_reasonings(data: bytes) -> bytes:
    """Add `reasoning_content`, the name by which some clients know vLLM's `reasoning`."""
    if b'"reasoning":"' not in data:
        return data
    return _REASONING.sub(rb'"reasoning":\1,"reasoning_content":\1', data)

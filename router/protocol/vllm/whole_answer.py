"""Passes an answer that is not streamed on to the client."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from vllama_pool.router.protocol.operation import STEP, StreamFailure, Usage
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.errors import event_status, explain_event
from vllama_pool.router.protocol.vllm.model_name import with_model

ABANDONED: Mapping[str, int] = {"abort": 503, "error": 500}
"""HTTP status by finish reason, for requests that vLLM gave up."""
_GIVEN_UP: Mapping[str | None, int] = {"cancelled": 503, "failed": 500}
"""HTTP status by the status of a Response."""
STOPPED = "the worker stopped the request"
NOT_AN_ANSWER = StreamFailure(502, "the worker's response is not an answer")
_REASONING = re.compile(rb'"reasoning":("(?:[^"\\]|\\.)*")')
"""In JSON, the quotes of a text are escaped, so this is always a field."""


class AnswerUsage(msgspec.Struct, frozen=True, gc=False):
    """The usage of any API: OpenAI's chat, or Responses and Anthropic."""

    prompt_tokens: api.Count | None = None
    completion_tokens: api.Count | None = None
    input_tokens: api.Count | None = None
    """Anthropic counts tokens of the cache apart."""
    output_tokens: api.Count | None = None
    cache_read_input_tokens: api.Count | None = None
    cache_creation_input_tokens: api.Count | None = None

    def with_reason(self, reason: str) -> Usage:
        prompt = self.prompt_tokens
        if prompt is None:
            cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
            prompt = (self.input_tokens or 0) + cached
        completion = self.completion_tokens if self.completion_tokens is not None else self.output_tokens
        return Usage(prompt, completion or 0, reason)


class Item(msgspec.Struct, frozen=True, gc=False):
    """An object whose content is not read."""


class AnswerChoice(msgspec.Struct, frozen=True, gc=False):
    finish_reason: str | None = None
    message: Item | None = None
    """Of a chat."""
    text: str | None = None
    """Of a completion."""

    @property
    def is_complete(self) -> bool:
        return self.message is not None or self.text is not None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The part of an answer that the router reads. Each subclass adds the field that makes it an answer of its API."""

    model: str = ""
    usage: AnswerUsage | None = None
    error: api.VllmErrorBody | str | None = None
    """Of a proxy that answers with 200, or of a server that failed after its head."""

    @property
    def reason(self) -> str:
        return ""

    @property
    def is_complete(self) -> bool:
        """False for a document without what was asked for, such as `{}`."""
        return False

    def given_up(self) -> StreamFailure | None:
        """Return the failure of an answer that vLLM gave up."""
        return None


class Choices(Answer, frozen=True, gc=False):
    """Of chats and completions."""

    choices: list[AnswerChoice] | None = None

    @property
    def reason(self) -> str:
        return (self.choices and self.choices[0].finish_reason) or ""

    @property
    def is_complete(self) -> bool:
        return bool(self.choices) and all(choice.is_complete for choice in self.choices or ())

    def given_up(self) -> StreamFailure | None:
        reasons = [choice.finish_reason for choice in self.choices or ()]
        return next((abandoned(reason) for reason in reasons if reason in ABANDONED), None)


class Message(Answer, frozen=True, gc=False):
    """Of Anthropic."""

    type: str = ""
    stop_reason: str | None = None
    content: list[Item] | None = None

    @property
    def reason(self) -> str:
        return self.stop_reason or ""

    @property
    def is_complete(self) -> bool:
        return self.type == "message" and self.content is not None

    def given_up(self) -> StreamFailure | None:
        return abandoned("abort") if self.type == "message" and not self.stop_reason else None


class Response(Answer, frozen=True, gc=False):
    """Of OpenAI's Responses."""

    status: str | None = None
    output: list[Item] | None = None

    @property
    def reason(self) -> str:
        return self.status or ""

    @property
    def is_complete(self) -> bool:
        return self.status is not None and self.output is not None

    def given_up(self) -> StreamFailure | None:
        return StreamFailure(_GIVEN_UP[self.status], STOPPED) if self.status in _GIVEN_UP else None


class Listed(Answer, frozen=True, gc=False):
    """Embeddings, scores, or ranks."""

    data: list[Item] | None = None
    results: list[Item] | None = None

    @property
    def is_complete(self) -> bool:
        return bool(self.data or self.results)


class Counted(Answer, frozen=True, gc=False):
    """Tokens of a prompt, of vLLM or of Anthropic."""

    count: api.Count | None = None
    input_tokens: api.Count | None = None

    @property
    def is_complete(self) -> bool:
        return self.count is not None or self.input_tokens is not None


class Detokenized(Answer, frozen=True, gc=False):
    prompt: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.prompt is not None


class Transcribed(Answer, frozen=True, gc=False):
    text: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.text is not None


ReadAnswer = Callable[[bytes], Answer]
"""Raises INVALID_JSON."""

read_choices: ReadAnswer = msgspec.json.Decoder(Choices).decode
read_message: ReadAnswer = msgspec.json.Decoder(Message).decode
read_response: ReadAnswer = msgspec.json.Decoder(Response).decode
read_list: ReadAnswer = msgspec.json.Decoder(Listed).decode
read_count: ReadAnswer = msgspec.json.Decoder(Counted).decode
read_text_of_tokens: ReadAnswer = msgspec.json.Decoder(Detokenized).decode
read_transcript: ReadAnswer = msgspec.json.Decoder(Transcribed).decode


class WholeAnswer:
    """A `StreamTranslator` that collects a JSON document.

    vLLM's head of 200 proves nothing: a document that is not an answer is a failure of the worker.
    """

    cut_off = False

    __slots__ = ("_adjust", "_body", "_name", "_read", "done", "failure", "usage")

    def __init__(self, name: str, read: ReadAnswer, adjust: Callable[[bytes], bytes] | None = None) -> None:
        """`name`: of the model, as the client spelled it. `read`: of the API. `adjust` changes the document further,
        and raises INVALID_JSON."""
        self._name = name
        self._read = read
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

    @property
    def progress(self) -> int:
        return sum(map(len, self._body)) // STEP

    def feed(self, data: bytes) -> bytes:
        self._body.append(data)
        return b""

    def finish(self) -> bytes:
        document = b"".join(self._body)
        try:
            if not document.isascii():
                document.decode()  # msgspec does not check the texts that it skips
            answer = self._read(document)
            if answer.usage is not None:
                self.usage = answer.usage.with_reason(answer.reason)
            self.failure = _failure(answer)
            if self.failure is not None:
                return b""
            body = with_model(document, answer.model, self._name) if answer.model else document
            body = body if self._adjust is None else self._adjust(body)
        except msgspec.ValidationError:
            self.failure = NOT_AN_ANSWER
        except api.INVALID_JSON:
            self.failure = StreamFailure(502, "the worker's answer is not valid JSON")
        else:
            self.done = True
            return body
        return b""

    def fail(self, text: str) -> bytes:
        """A whole answer fails before it begins."""
        return b""


def is_answer(read: ReadAnswer, body: bytes) -> bool:
    """True if the body of a 200 is an answer of the API that `read` knows."""
    try:
        return read(body).is_complete
    except api.INVALID_JSON:
        return False


def _failure(answer: Answer) -> StreamFailure | None:
    if (failure := answer.given_up()) is not None:
        return failure
    if answer.error is not None:
        return StreamFailure(event_status(answer.error), explain_event(answer.error))
    return None if answer.is_complete else NOT_AN_ANSWER


def abandoned(reason: str | None) -> StreamFailure:
    return StreamFailure(ABANDONED[reason or ""], STOPPED)


def both_reasonings(data: bytes) -> bytes:
    """Add `reasoning_content`, the name by which some clients know vLLM's `reasoning`."""
    if b'"reasoning":"' not in data:
        return data
    return _REASONING.sub(rb'"reasoning":\1,"reasoning_content":\1', data)

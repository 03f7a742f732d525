"""Endpoints that a worker answers, as data.

The router decodes a body, resolves the model and calls `check`. Each attempt calls `prepare`, and reads the response
through a new `StreamTranslator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.workers.registry.record import ModelInfo


class Clock(Protocol):
    def time_ns(self) -> int:
        """Unix nanoseconds."""

    def monotonic_ns(self) -> int: ...


class HasModel(Protocol):
    @property
    def model(self) -> str:
        """Name as the client spelled it, which responses echo (R045)."""

    @property
    def stream(self) -> bool: ...

    @property
    def streams_answer(self) -> bool:
        """True if the client gets a generated answer line by line."""

    @property
    def keep_alive(self) -> int | None:
        """Nanoseconds; None if absent."""


class DirectResponse(msgspec.Struct, frozen=True, gc=False):
    """A response that needs no generation, such as a load's."""

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=utf-8"


class Resumable(msgspec.Struct, frozen=True, gc=False):
    """A request whose answer another worker may continue by its token ids, which the request asks for."""

    sampling: Any
    """The request without its prompt."""
    hides_ids: bool
    """The client must not see the ids."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    path: str
    body: bytes
    translator: Callable[..., StreamTranslator] | None = None
    """Called with request, timing and clock. Default: the operation's."""
    whole: bool = False
    """True if the worker sends nothing until its answer is complete."""
    content_type: str = "application/json"
    resume: Resumable | None = None
    """None if another worker must not continue the answer."""


class PreflightRequest(msgspec.Struct, frozen=True):
    """A request that the worker must answer first, such as a token count."""

    path: str
    body: bytes
    then: Callable[[bytes], NextStep]
    """Returns the next step, given a 200's body. Raises AttemptFailed, or DecodeError for what is not an answer."""


NextStep: TypeAlias = UpstreamRequest | PreflightRequest | DirectResponse


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Monotonic nanoseconds."""

    arrived: int
    """End of the client's request."""
    sent: int
    """Start of this attempt."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    done_reason: str = ""


class StreamFailure(msgspec.Struct, frozen=True, gc=False):
    """An error event within a 200 stream, with its own status."""

    status: int
    text: str
    model_at_fault: bool = False
    """True if the model's output is invalid, which is no fault of the worker."""


STEP = 64 * 1024
"""Bytes of a document that count as progress, so that a byte a second does not."""


class StreamTranslator(Protocol):
    """Translates a worker's stream, split anywhere, into the client's response.

    `feed` returns NDJSON lines when streaming; otherwise `finish` returns one object. Until `ready`, another worker
    can answer.
    """

    @property
    def ready(self) -> bool:
        """True if the client's response may begin: `begun` when streaming, else `done`."""

    @property
    def begun(self) -> bool:
        """True after the first text, reasoning, tool call, finish or usage."""

    @property
    def progress(self) -> int:
        """Changes with each content of the answer, unlike with comments and empty events."""

    @property
    def done(self) -> bool:
        """True if the answer is complete, with finish reason and usage."""

    @property
    def cut_off(self) -> bool:
        """True if the answer is complete although the worker goes on; its response is then closed."""

    @property
    def failure(self) -> StreamFailure | None: ...

    @property
    def usage(self) -> Usage:
        """A lower bound until `done`."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """Return the rest, with an error line if the response is incomplete."""

    def fail(self, text: str) -> bytes:
        """Return an error line for a response that has begun."""


@runtime_checkable
class Restartable(Protocol):
    """A `StreamTranslator` that can go on with the events of another worker."""

    def restart(self, dropped: int) -> None:
        """Forget a failure and an incomplete event. `dropped`: tokens at the end that are generated again."""


RequestT = TypeVar("RequestT", bound=HasModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[RequestT]):
    name: str
    path: str
    decode: Callable[[bytes], RequestT]
    """Raises ClientError with Ollama's status and text."""
    check: Callable[[RequestT, ModelInfo, Defaults], DirectResponse | None]
    """Answers or refuses without a worker. Raises ClientError."""
    prepare: Callable[[RequestT, ModelInfo, Defaults], NextStep]
    """The request's fields override the defaults."""
    translator: Callable[[RequestT, Timing, Clock], StreamTranslator]
    not_found: Callable[[str], str]
    content_type: Callable[[RequestT], str]
    adapt: Callable[[RequestT, ModelInfo, Defaults, *tuple[AttemptFailed, ...]], NextStep | None] | None = None
    """Builds a request for the same worker after these refusals and faults, latest last; None if it cannot.

    Raises Refused.
    """
    untruncated: Callable[[RequestT, ModelInfo, Defaults], RequestT] | None = None
    """Returns the request without what shortens it before the worker can refuse it; the same object if nothing does."""
    decode_form: Callable[[str, bytes], RequestT] | None = None
    """Decodes a body in multipart/form-data, given its Content-Type. Raises ClientError."""

"""An endpoint that a worker answers, as data: one `Operation` per endpoint. Pure.

The router decodes a body, resolves the model and calls `check`. Each attempt calls `prepare`, and reads the response
through a new `StreamTranslator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.workers.registry.record import ModelInfo


class Clock(Protocol):
    """Passed in, so that translators are pure."""

    def time_ns(self) -> int:
        """Unix nanoseconds."""

    def monotonic_ns(self) -> int: ...


class HasModel(Protocol):
    @property
    def model(self) -> str:
        """The name as the client spelled it: responses echo it (R045)."""

    @property
    def stream(self) -> bool: ...

    @property
    def keep_alive(self) -> int | None:
        """Nanoseconds; None if absent."""


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """A response that needs no generation, such as a load request's."""

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    path: str
    body: bytes
    translator: Callable[..., StreamTranslator] | None = None
    """Takes request, timing and clock. None for the operation's own."""


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """A request that the worker must answer first, such as counting a prompt's tokens."""

    path: str
    body: bytes
    then: Callable[[bytes], NextStep]
    """Returns what follows, given the body of a 200. Raises AttemptFailed for an invalid body."""


NextStep: TypeAlias = UpstreamRequest | PreflightRequest | DirectResponse


@dataclass(frozen=True, slots=True)
class Timing:
    """Monotonic nanoseconds."""

    arrived: int
    """The client's request was complete."""
    sent: int
    """This attempt was sent to a worker."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    done_reason: str = ""


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """An error event within a 200 stream, with its own status."""

    status: int
    text: str
    model_at_fault: bool = False
    """True if the model's output is at fault, not the worker."""


class StreamTranslator(Protocol):
    """Translates a worker's stream, cut anywhere, into the client's response.

    When streaming, `feed` returns NDJSON lines. Otherwise `finish` returns one JSON object. Until `ready`, another
    worker can still answer.
    """

    @property
    def ready(self) -> bool:
        """True if the client's response may begin: `begun` when streaming, else `done`."""

    @property
    def begun(self) -> bool:
        """True after the first content event: text, reasoning, tool call, finish or usage."""

    @property
    def done(self) -> bool:
        """True if the answer is complete, with finish reason and usage."""

    @property
    def failure(self) -> StreamFailure | None: ...

    @property
    def usage(self) -> Usage:
        """Tokens that the worker has generated so far; a lower bound until `done`."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """End the worker's body. Returns the rest of the response; as `fail` if it is incomplete."""

    def fail(self, text: str) -> bytes:
        """Break off a response that has begun. Returns an error line."""


RequestT = TypeVar("RequestT", bound=HasModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[RequestT]):
    name: str
    path: str
    decode: Callable[[bytes], RequestT]
    """Raises ClientError with Ollama's status and text."""
    check: Callable[[RequestT, ModelInfo], DirectResponse | None]
    """Answers or refuses a request before a worker is chosen. Raises ClientError."""
    prepare: Callable[[RequestT, ModelInfo, Defaults], NextStep]
    """Builds the worker's request. The model's defaults yield to the request's fields."""
    translator: Callable[[RequestT, Timing, Clock], StreamTranslator]
    not_found: Callable[[str], str]
    content_type: Callable[[RequestT], str]
    adapt: Callable[[RequestT, ModelInfo, Defaults, *tuple[AttemptFailed, ...]], NextStep | None] | None = None
    """Builds a request that the same worker may accept after these refusals, the latest last; None if there is none.
    Raises Refused to reword the refusal."""

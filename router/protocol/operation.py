"""What the router needs to know of an endpoint that a worker answers: one `Operation` per endpoint.

Everything here is pure. The router's one handler decodes a body with `decode`, resolves the model's name,
asks `check`, and then for each attempt builds the worker's request with `prepare` and reads its answer
through a new `StreamTranslator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.workers.registry.record import ModelInfo


class Clock(Protocol):
    """Where time comes from. Passed in, so that translators stay pure and tests own the time."""

    def time_ns(self) -> int:
        """Wall clock, Unix nanoseconds."""

    def monotonic_ns(self) -> int:
        """For durations, nanoseconds."""


class HasModel(Protocol):
    """A decoded request. `model` is spelled as the client sent it: answers echo it (R045)."""

    @property
    def model(self) -> str: ...

    @property
    def stream(self) -> bool: ...

    @property
    def keep_alive(self) -> Any:
        """As sent, already checked."""


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """An answer that needs no worker, such as a load request's."""

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request as vLLM takes it. Streamed, where vLLM can."""

    path: str
    body: bytes
    translator: Callable[[Any, Timing, Clock], StreamTranslator] | None = None
    """How the answer to this is read, given the request; None where that is the operation's own way."""


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """A question to the worker that comes before the request itself, such as how many tokens a prompt has."""

    path: str
    body: bytes
    then: Callable[[bytes], NextStep]
    """What follows, given the body of the worker's 200. Raises AttemptFailed if that cannot be understood."""


NextStep: TypeAlias = UpstreamRequest | PreflightRequest | DirectResponse
"""What is to be done next for a request: send it, ask the worker something first, or answer it right away."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When things happened, on the monotonic clock, in nanoseconds."""

    arrived: int
    """The client's request was complete."""
    sent: int
    """This attempt was sent to a worker."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished answer took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    done_reason: str = ""


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """An error event inside a 200 stream, by its own code: vLLM has no other way once the head is sent."""

    status: int
    text: str
    models_own: bool = False
    """What the model wrote is at fault: no other worker would do better, and this one is not ill."""


class StreamTranslator(Protocol):
    """Turns the bytes of a worker's stream into the bytes of the client's answer.

    Streaming, `feed` gives NDJSON lines, all events of one read together. Otherwise `feed` gives nothing and
    `finish` gives the one JSON object. The input may be cut anywhere, also inside a character. Until `ready`
    nothing that was fed may have reached the client: `feed` keeps its output back and gives it all when the
    translator becomes ready.
    """

    @property
    def ready(self) -> bool:
        """Whether the client's answer may begin. Streaming: the first content event was seen (text, reasoning,
        a tool call, a finish, or usage). Not streaming: the answer is whole."""

    @property
    def begun(self) -> bool:
        """Whether the first content event was seen, streaming or not."""

    @property
    def done(self) -> bool:
        """The worker's answer is complete: finish reason and, where asked for, usage have been seen."""

    @property
    def failure(self) -> StreamFailure | None:
        """The error event that ended the stream, if one did."""

    @property
    def usage(self) -> Usage: ...

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the worker's body; return what the client gets for them."""

    def finish(self) -> bytes:
        """The worker's body has ended. Returns the rest of the client's answer: the final object if the answer
        is whole, else what `fail` returns."""

    def fail(self, text: str) -> bytes:
        """Break off after the client's answer has begun: one error line in the endpoint's protocol."""


RequestT = TypeVar("RequestT", bound=HasModel)


@dataclass(frozen=True, slots=True)
class Operation(Generic[RequestT]):
    """One endpoint that is answered by a worker."""

    name: str
    """For logs and metrics, such as "chat"."""
    path: str
    decode: Callable[[bytes], RequestT]
    """The body as bytes to a frozen request. Raises ClientError with Ollama's status and text."""
    check: Callable[[RequestT, ModelInfo], DirectResponse | None]
    """What is refused or answered once the model is known, in Ollama's order of checks. Raises ClientError."""
    prepare: Callable[[RequestT, ModelInfo, Defaults], NextStep]
    """The way to the worker's request. The defaults are the model's own, weaker than what the request says."""
    translator: Callable[[RequestT, Timing, Clock], StreamTranslator]
    not_found: Callable[[str], str]
    """The endpoint's text for a model nobody serves, given the name as sent."""
    content_type: Callable[[RequestT], str]
    """The answer's Content-Type."""
    adapt: Callable[[RequestT, ModelInfo, Defaults, *tuple[AttemptFailed, ...]], NextStep | None] | None = None
    """How to ask the same worker once more, differently, given all its refusals, the latest last; None where nothing
    helps. Raises Refused to say the same in the endpoint's own words."""

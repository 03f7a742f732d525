"""Faults of the worker and of requests.

Each request gets the first matching fault. In JSON, `kind` is the class name in lower case:

    {"kind": "cut", "after_tokens": 5, "count": 1}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

INFERENCE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/rerank",
    "/v1/score",
    "/score",
    "/v1/audio/transcriptions",
)


class _Worker(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True
): ...


class Refuse(_Worker, frozen=True, kw_only=True):
    """Refuses new connections."""

    seconds: float | None = None
    """None: until the faults are replaced."""
    reset: bool = False
    """Reset the open connections too."""


class Freeze(_Worker, frozen=True, kw_only=True):
    """Reads, generates and answers nothing, like a stopped process."""

    seconds: float


class Slow(_Worker, frozen=True, kw_only=True):
    """Multiplies the step time."""

    factor: float


class Dead(_Worker, frozen=True, kw_only=True):
    """The engine dies, the HTTP server runs: error events, 500, /health 503."""

    exit_after: float | None = None
    """Seconds until the process exits; None for never."""


class Draining(_Worker, frozen=True, kw_only=True):
    """Answers new requests with 500, as vLLM does after SIGTERM. /health stays 200."""


class IgnoreSigterm(_Worker, frozen=True, kw_only=True):
    """Ignores SIGTERM and SIGINT, as a process."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    count: int | None = None
    """Matching requests; None for all."""
    marker: str = ""
    """Text that the body must contain."""
    paths: tuple[str, ...] = INFERENCE


class Hang(_Request, frozen=True, kw_only=True):
    """Never answers."""


class Status(_Request, frozen=True, kw_only=True):
    status: int = 500
    retry_after: float | None = None
    """Retry-After, in seconds."""


class Body(_Request, frozen=True, kw_only=True):
    """Answers with this body."""

    body: str
    status: int = 200
    content_type: str = "application/json"


class Half(_Request, frozen=True, kw_only=True):
    """Sends half an event in place of the k-th token, or half an answer that is not streamed, and closes."""

    after_tokens: int = 0


class Die(_Request, frozen=True, kw_only=True):
    """Kills the worker at the k-th token, 0 on arrival."""

    after_tokens: int = 0


class Cut(_Request, frozen=True, kw_only=True):
    """Closes the connection after k tokens."""

    after_tokens: int = 0
    reset: bool = False
    """Send RST instead of FIN."""


class Error(_Request, frozen=True, kw_only=True):
    """Ends the stream with an error event after k tokens."""

    after_tokens: int = 0
    status: int = 500


class Empty(_Request, frozen=True, kw_only=True):
    """Ends a stream without events, as vLLM does before sleep. Other requests get 500."""


class Stall(_Request, frozen=True, kw_only=True):
    """Sends nothing after k tokens and stays connected."""

    after_tokens: int = 0


class Garbage(_Request, frozen=True, kw_only=True):
    """Sends garbage instead of the head, a chunk or an event's JSON."""

    where: Literal["head", "chunk", "event"] = "event"
    after_tokens: int = 0


class Split(_Request, frozen=True, kw_only=True):
    """Writes every byte separately."""


WorkerFault = Refuse | Freeze | Slow | Dead | Draining | IgnoreSigterm
RequestFault = Hang | Status | Body | Half | Die | Cut | Error | Empty | Stall | Garbage | Split
Fault = WorkerFault | RequestFault


def parse(data: bytes | str) -> list[Fault]:
    """Parse one fault or a list. Raises msgspec.DecodeError."""
    parsed = msgspec.json.decode(data, type=Fault | list[Fault])
    return parsed if isinstance(parsed, list) else [parsed]


class FaultPlan:
    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self._remaining = [fault.count if isinstance(fault, _Request) else None for fault in self._faults]

    @property
    def faults(self) -> Sequence[Fault]:
        return self._faults

    def active(self, kind: type[_Worker]) -> _Worker | None:
        return next((fault for fault in self._faults if isinstance(fault, kind)), None)

    @property
    def slowdown(self) -> float:
        fault = self.active(Slow)
        return fault.factor if isinstance(fault, Slow) else 1.0

    def next_for(self, path: str, body: bytes) -> RequestFault | None:
        """Return the fault for this request, and count it."""
        for index, fault in enumerate(self._faults):
            if not isinstance(fault, _Request) or path not in fault.paths or self._remaining[index] == 0:
                continue
            if fault.marker and fault.marker.encode() not in body:
                continue
            remaining = self._remaining[index]
            self._remaining[index] = None if remaining is None else remaining - 1
            return fault
        return None

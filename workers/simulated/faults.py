"""Faults of the worker and of requests. Pure: the server acts them out.

Each request gets the first fault that matches. In JSON, `kind` is the class name in lower case:

    {"kind": "cut", "after_tokens": 5, "count": 1}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

INFERENCE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class _Worker(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """A state of the worker."""


class Refuse(_Worker, frozen=True, kw_only=True):
    """Refuses new connections and keeps the open ones."""

    seconds: float | None = None
    """None lasts until the script is replaced."""


class Freeze(_Worker, frozen=True, kw_only=True):
    """Accepts connections but reads, generates and answers nothing, like a stopped process."""

    seconds: float


class Slow(_Worker, frozen=True, kw_only=True):
    """Multiplies the time of every step."""

    factor: float


class Dead(_Worker, frozen=True, kw_only=True):
    """Kills the engine, not the HTTP server: error events in open streams, 500 to new requests, 503 from /health."""

    exit_after: float | None = None
    """Seconds until the process exits, as vLLM does; None for never."""


class Draining(_Worker, frozen=True, kw_only=True):
    """Finishes running requests and answers new ones with 500, like vLLM after SIGTERM. /health stays 200."""


class IgnoreSigterm(_Worker, frozen=True, kw_only=True):
    """Ignores SIGTERM and SIGINT. Affects only a worker that is a process."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """A fault of one request."""

    count: int | None = None
    """Requests to hit; None for all."""
    marker: str = ""
    """Text that the body must contain."""
    paths: tuple[str, ...] = INFERENCE
    """Paths to hit; may include "/health"."""


class Hang(_Request, frozen=True, kw_only=True):
    """Reads the request and never answers."""


class Status(_Request, frozen=True, kw_only=True):
    """Answers with an error status."""

    status: int = 500
    retry_after: float | None = None
    """Seconds for a Retry-After header."""


class Die(_Request, frozen=True, kw_only=True):
    """Kills the worker at the k-th token of the request (0: on arrival)."""

    after_tokens: int = 0


class Cut(_Request, frozen=True, kw_only=True):
    """Closes the connection after k tokens, within the stream."""

    after_tokens: int = 0
    reset: bool = False
    """Send RST instead of FIN."""


class Error(_Request, frozen=True, kw_only=True):
    """Writes an error event after k tokens, and ends the stream."""

    after_tokens: int = 0
    status: int = 500


class Empty(_Request, frozen=True, kw_only=True):
    """Ends a 200 stream without events, like vLLM before sleep or drain. Other requests get a 500."""


class Stall(_Request, frozen=True, kw_only=True):
    """Stops the stream after k tokens and keeps it open."""

    after_tokens: int = 0


class Garbage(_Request, frozen=True, kw_only=True):
    """Sends garbage as the head, as a chunk after k tokens, or as an event without valid JSON and UTF-8."""

    where: Literal["head", "chunk", "event"] = "event"
    after_tokens: int = 0


class Split(_Request, frozen=True, kw_only=True):
    """Writes every byte of the answer separately."""


WorkerFault = Refuse | Freeze | Slow | Dead | Draining | IgnoreSigterm
RequestFault = Hang | Status | Die | Cut | Error | Empty | Stall | Garbage | Split
Fault = WorkerFault | RequestFault


def parse(data: bytes | str) -> list[Fault]:
    """Parse one fault or a list from JSON. Raises msgspec.DecodeError."""
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
        """Return the worker's fault of this kind."""
        return next((fault for fault in self._faults if isinstance(fault, kind)), None)

    @property
    def slowdown(self) -> float:
        fault = self.active(Slow)
        return fault.factor if isinstance(fault, Slow) else 1.0

    def next_for(self, path: str, body: bytes) -> RequestFault | None:
        """Return the fault that hits this request, and count it."""
        for index, fault in enumerate(self._faults):
            if not isinstance(fault, _Request) or path not in fault.paths or self._remaining[index] == 0:
                continue
            if fault.marker and fault.marker.encode() not in body:
                continue
            remaining = self._remaining[index]
            self._remaining[index] = None if remaining is None else remaining - 1
            return fault
        return None

"""Faults, and which request they hit. Pure: acting them out is the server's part.

A script is a list of faults. Some are states of the whole worker; the others hit requests: the first of them
that fits a request is acted out on it. In JSON each is an object whose `kind` is the class's name in lower case:

    {"kind": "cut", "after_tokens": 5, "count": 1}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

INFERENCE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class _Worker(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """A state of the whole worker."""


class Refuse(_Worker, frozen=True, kw_only=True):
    """New connections are refused; those that exist go on."""

    seconds: float | None = None
    """None: until the script is replaced, which then only an open connection or the owner can do."""


class Freeze(_Worker, frozen=True, kw_only=True):
    """Nothing is read, generated or answered, as with a stopped process: connections are still accepted."""

    seconds: float


class Slow(_Worker, frozen=True, kw_only=True):
    """Every step takes this many times as long."""

    factor: float


class Dead(_Worker, frozen=True, kw_only=True):
    """The engine is dead and the HTTP server lives: open streams get an error event, new requests a 500, and
    /health says 503."""


class Draining(_Worker, frozen=True, kw_only=True):
    """As vLLM after SIGTERM: running requests finish, new ones get a 500, /health still says 200."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True):
    """What happens to a request."""

    count: int | None = None
    """Requests that it hits; None for all."""
    marker: str = ""
    """Only requests with this text in their body."""
    paths: tuple[str, ...] = INFERENCE
    """Only requests for these paths; "/health" may be named too."""


class Hang(_Request, frozen=True, kw_only=True):
    """The request is read and nothing is ever answered."""


class Status(_Request, frozen=True, kw_only=True):
    """An error answer instead of an answer."""

    status: int = 500
    retry_after: float | None = None
    """Seconds, for a Retry-After header."""


class Die(_Request, frozen=True, kw_only=True):
    """The worker dies without a word, at the k-th token of the request (0: at its arrival)."""

    after_tokens: int = 0


class Cut(_Request, frozen=True, kw_only=True):
    """The connection is closed after k tokens of a stream, without its end."""

    after_tokens: int = 0
    reset: bool = False
    """With a RST in place of a FIN."""


class Error(_Request, frozen=True, kw_only=True):
    """An error event inside the 200 stream after k tokens (0: it is the first event), then the end."""

    after_tokens: int = 0
    status: int = 500


class Empty(_Request, frozen=True, kw_only=True):
    """A 200 stream without any event but its end: what vLLM gives to streams that were accepted and had no token
    yet when it went to sleep or began to drain. Other requests get a 500."""


class Stall(_Request, frozen=True, kw_only=True):
    """The stream stops after k tokens and stays open."""

    after_tokens: int = 0


class Garbage(_Request, frozen=True, kw_only=True):
    """Bytes that make no sense: in place of the response's head, of a stream's chunk after k tokens (so that
    the chunked coding breaks), or as an event that is no JSON and no UTF-8."""

    where: Literal["head", "chunk", "event"] = "event"
    after_tokens: int = 0


class Split(_Request, frozen=True, kw_only=True):
    """Every byte of the answer is written by itself."""


WorkerFault = Refuse | Freeze | Slow | Dead | Draining
RequestFault = Hang | Status | Die | Cut | Error | Empty | Stall | Garbage | Split
Fault = WorkerFault | RequestFault


def parse(data: bytes | str) -> list[Fault]:
    """Faults from JSON: one object or a list of them. Raises msgspec.DecodeError that says what is wrong."""
    found = msgspec.json.decode(data, type=Fault | list[Fault])
    return found if isinstance(found, list) else [found]


class Script:
    """The faults that are set, and how often each may still hit."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Forget the old script."""
        self._faults = tuple(faults)
        self._left = [fault.count if isinstance(fault, _Request) else None for fault in self._faults]

    @property
    def faults(self) -> Sequence[Fault]:
        return self._faults

    def state(self, kind: type[_Worker]) -> _Worker | None:
        """The worker's fault of this kind, if it is set."""
        return next((fault for fault in self._faults if isinstance(fault, kind)), None)

    @property
    def slow(self) -> float:
        fault = self.state(Slow)
        return fault.factor if isinstance(fault, Slow) else 1.0

    def take(self, path: str, body: bytes) -> RequestFault | None:
        """The fault that hits this request, which is thereby counted."""
        for index, fault in enumerate(self._faults):
            if not isinstance(fault, _Request) or path not in fault.paths or self._left[index] == 0:
                continue
            if fault.marker and fault.marker.encode() not in body:
                continue
            left = self._left[index]
            self._left[index] = None if left is None else left - 1
            return fault
        return None

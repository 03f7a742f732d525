"""The time limits of attempts: an entry's own in place of the settings'."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Protocol

from vllama_pool.router.proxy.stalls import StallLimits

_MAX_COMPILED: Final = 1024


class EntryTimeouts(Protocol):
    """`timeouts` of an entry of the routing file, in seconds; None for the setting's."""

    @property
    def connect(self) -> float | None: ...
    @property
    def first_content(self) -> float | None: ...
    @property
    def stall(self) -> float | None: ...
    @property
    def answer(self) -> float | None: ...
    @property
    def total(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect: float = 1.0
    stalls: StallLimits = field(default_factory=StallLimits)
    total: float = math.inf
    """From the request's arrival to the end of its response, waiting and all attempts included."""


class TimeoutTable:
    """Compiles the limits of each entry once."""

    def __init__(self, settings: Timeouts) -> None:
        self.settings = settings
        self._compiled: dict[int, tuple[EntryTimeouts, Timeouts]] = {}
        """By the identity of the entry's object, which is kept with its limits."""

    def __repr__(self) -> str:
        return f"<TimeoutTable of {len(self._compiled)} entries>"

    def of(self, own: EntryTimeouts) -> Timeouts:
        known = self._compiled.get(id(own))
        if known is None:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            known = self._compiled[id(own)] = own, _merged(self.settings, own)
        return known[1]


def _merged(settings: Timeouts, own: EntryTimeouts) -> Timeouts:
    stalls = settings.stalls
    merged = StallLimits(
        unresponsive_worker=stalls.unresponsive_worker,
        first_content=stalls.first_content if own.first_content is None else own.first_content,
        mid_response=stalls.mid_response if own.stall is None else own.stall,
        whole_answer=stalls.whole_answer if own.answer is None else own.answer,
    )
    return Timeouts(
        connect=settings.connect if own.connect is None else own.connect,
        stalls=merged,
        total=settings.total if own.total is None else own.total,
    )

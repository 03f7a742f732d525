"""Decides whether an agent may replace a start of its worker that has a higher generation. Pure.

Generations come from clocks. So a fresh agent whose clock is behind is older, by the number, than a dead predecessor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SILENT = 5.0
"""Seconds without a new beat after which the other start counts as dead. A living one beats once a second."""
MAX_GAP = 3.0
"""Seconds between two looks. After a longer gap, such as an outage of the registry, the time starts anew: the other
start could not beat either."""


class Verdict(Enum):
    WAIT = 1
    TAKE_OVER = 2
    REFUSED = 3
    """The other start lives."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The other start, as seen until now. Times are monotonic seconds."""

    generation: int
    beat: int
    """Number of its latest beat."""
    since: float
    """Time of the first look with this beat."""
    seen: float
    """Time of the latest look."""


def judge(rival: Rival | None, generation: int, beat: int, now: float) -> tuple[Verdict, Rival]:
    """Return what to do, and what to remember for the next look."""
    if rival is None or now - rival.seen > MAX_GAP:
        return Verdict.WAIT, Rival(generation, beat, now, now)
    if (rival.generation, rival.beat) != (generation, beat):
        return Verdict.REFUSED, rival
    verdict = Verdict.TAKE_OVER if now - rival.since >= SILENT else Verdict.WAIT
    return verdict, Rival(generation, beat, rival.since, now)

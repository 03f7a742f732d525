"""Crashes of engines, the requests that they had in flight, and which request they have in common. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations


@dataclass(frozen=True, slots=True, order=True)
class CrashId:
    worker: str
    generation: int
    number: int
    """`EngineExit.number`."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """The only request that two crashes have in common."""

    digest: str
    crashes: tuple[CrashId, CrashId]


@dataclass(slots=True)
class _Crash:
    cause: str
    seen: float
    """Monotonic seconds."""
    digests: set[str] = field(default_factory=set)


class Evidence:
    """The crashes of the latest `keep` seconds, as reported by all routers. `now` is in monotonic seconds."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._crashes: dict[CrashId, _Crash] = {}

    def __len__(self) -> int:
        return len(self._crashes)

    def add(self, crash: CrashId, cause: str, digests: Iterable[str], now: float) -> None:
        """The crashed engine had these requests in flight."""
        self._forget(now)
        self._crashes.setdefault(crash, _Crash(cause, now)).digests.update(digests)

    def answered(self, digest: str) -> None:
        """Another engine has begun to answer the request, so no crash so far was its fault."""
        for crash in self._crashes.values():
            crash.digests.discard(digest)

    def knows(self, crash: CrashId, digest: str) -> bool:
        """True if the crashed engine had this request in flight."""
        return crash in self._crashes and digest in self._crashes[crash].digests

    def unexplained(self, crashes: Iterable[CrashId], guilty: Collection[str]) -> int:
        """Count the crashes of engines that had none of the guilty requests in flight."""
        seen = self._crashes
        return sum(crash not in seen or seen[crash].digests.isdisjoint(guilty) for crash in crashes)

    def culprits(self, now: float) -> list[Culprit]:
        self._forget(now)
        return culprits({crash: seen.digests for crash, seen in self._crashes.items()})

    def describe(self, culprit: Culprit, now: float) -> str:
        return " and ".join(
            f"{crash.worker} ({self._crashes[crash].cause}, {now - self._crashes[crash].seen:.0f} s ago)"
            for crash in culprit.crashes
        )

    def _forget(self, now: float) -> None:
        self._crashes = {crash: seen for crash, seen in self._crashes.items() if now - seen.seen < self._keep}


def culprits(in_flight: Mapping[CrashId, Collection[str]]) -> list[Culprit]:
    """Return the requests that are the only one in common of two crashes, each once."""
    found: dict[str, Culprit] = {}
    for first, second in combinations(in_flight, 2):
        common = set(in_flight[first]).intersection(in_flight[second])
        if len(common) == 1:
            digest = common.pop()
            found.setdefault(digest, Culprit(digest, (first, second)))
    return list(found.values())

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
    """Requests whose answer no engine had begun."""
    begun: set[str] = field(default_factory=set)
    """Requests whose answer had begun, here or later elsewhere, and is not known to have been completed."""

    def had(self, digests: Collection[str]) -> bool:
        return not (self.digests.isdisjoint(digests) and self.begun.isdisjoint(digests))


class Evidence:
    """The crashes of the latest `keep` seconds, as reported by all routers. `now` is in monotonic seconds."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._crashes: dict[CrashId, _Crash] = {}

    def __len__(self) -> int:
        return len(self._crashes)

    def add(self, crash: CrashId, cause: str, digests: Iterable[str], now: float, *, begun: Iterable[str] = ()) -> None:
        """The crashed engine had these requests in flight. `begun`: those whose answer had begun."""
        self._forget(now)
        seen = self._crashes.setdefault(crash, _Crash(cause, now))
        seen.digests.update(digests)
        seen.begun.update(begun)

    def answered(self, digest: str) -> None:
        """Another engine has begun to answer the request, so the crashes so far are hardly its fault."""
        for crash in self._crashes.values():
            if digest in crash.digests:
                crash.digests.discard(digest)
                crash.begun.add(digest)

    def completed(self, digest: str) -> bool:
        """Another engine has answered the request, so no crash so far was its fault. Return False if it is unknown."""
        suspected = [crash for crash in self._crashes.values() if crash.had((digest,))]
        for crash in suspected:
            crash.digests.discard(digest)
            crash.begun.discard(digest)
        return bool(suspected)

    def has_begun(self, now: float) -> bool:
        """True if an answer that had begun may have crashed an engine."""
        self._forget(now)
        return any(crash.begun for crash in self._crashes.values())

    def knows(self, crash: CrashId, digest: str) -> bool:
        """True if the crashed engine had this request in flight."""
        return crash in self._crashes and digest in self._crashes[crash].digests

    def unexplained(self, crashes: Iterable[CrashId], guilty: Collection[str]) -> int:
        """Count the crashes of engines that had none of the guilty requests in flight."""
        seen = self._crashes
        return sum(crash not in seen or not seen[crash].had(guilty) for crash in crashes)

    def culprits(self, now: float) -> list[Culprit]:
        self._forget(now)
        unanswered = {crash: seen.digests for crash, seen in self._crashes.items()}
        return culprits(unanswered, {crash: seen.digests | seen.begun for crash, seen in self._crashes.items()})

    def describe(self, culprit: Culprit, now: float) -> str:
        return " and ".join(
            f"{crash.worker} ({self._crashes[crash].cause}, {now - self._crashes[crash].seen:.0f} s ago)"
            for crash in culprit.crashes
        )

    def _forget(self, now: float) -> None:
        self._crashes = {crash: seen for crash, seen in self._crashes.items() if now - seen.seen < self._keep}


def culprits(
    unanswered: Mapping[CrashId, Collection[str]], in_flight: Mapping[CrashId, Collection[str]] | None = None
) -> list[Culprit]:
    """Return the requests that are the only one in common of two crashes, each once.

    `in_flight`: with the requests whose answers had begun. They count where the unanswered ones have none in common,
    because a request whose answer has begun is seldom at fault.
    """
    found: dict[str, Culprit] = {}
    for first, second in combinations(unanswered, 2):
        common = set(unanswered[first]).intersection(unanswered[second])
        if not common and in_flight is not None:
            common = set(in_flight[first]).intersection(in_flight[second])
        if len(common) == 1:
            digest = common.pop()
            found.setdefault(digest, Culprit(digest, (first, second)))
    return list(found.values())

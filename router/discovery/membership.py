"""Who is in the fleet, judged from what the registry shows. No I/O, no clock of its own.

A worker is alive while its report keeps changing: its agent counts its beats, and nobody's clock is compared
with anybody else's. How long a report has stood still is measured in *feed time*, which passes only between
polls of the registry that succeeded, so that an outage of the registry, its return, or a pause of this
process cannot make a worker look dead. And silence alone puts nobody out: the worker is asked itself first.

Nothing is deleted on suspicion. A worker is removed when it says that it leaves, or when it has been dead and
out of the registry for long; until then its next beat brings it back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Protocol

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.workers.registry.messages import Report, Snapshot, Version
from vllama_pool.workers.registry.record import Load

LATE_AFTER = 2.0
"""Seconds of feed time without a beat after which a worker is asked itself. Two beats have been missed."""
TTL = 3.0
"""Seconds of feed time without a beat after which it is out, if it did not answer either."""
GRACE = 2 * TTL
"""Seconds for which nobody ages after the registry came back or was emptied: agents must find it first."""
FORGET_AFTER = 60.0
"""Seconds of feed time after which a worker that is dead and in no registry is forgotten."""
LONGEST_STEP = 1.0
"""Seconds of feed time that one poll can add. More than that was this process's own pause."""


class WorkerSink(Protocol):
    """Where the verdicts go: the pool."""

    def put(self, *found: Discovered) -> None: ...
    def remove(self, *worker_ids: str) -> None: ...
    def report(self, worker_id: str, load: Load, /) -> object: ...
    def mark_up(self, worker_id: str, /) -> None: ...
    def mark_suspect(self, worker_id: str, /) -> None: ...
    def mark_down(self, worker_id: str, /) -> None: ...


class ProbeAnswer(enum.Enum):
    """What a worker said when it was asked itself."""

    UP = "up"
    GONE = "gone"
    """Nobody listens, or it says that its engine is dead."""
    NONE = "none"
    """No answer. It may be frozen, or this router may be the one that is cut off."""


class Liveness(enum.Enum):
    ALIVE = "alive"
    LATE = "late"
    DOWN = "down"


class FeedClock:
    """Seconds for which the registry was seen to work. Times given to it are monotonic seconds."""

    def __init__(self) -> None:
        self.up = False
        self.interrupted = False
        """A poll has failed, and none has succeeded since."""
        self._total = 0.0
        self._last = 0.0
        self._frozen_until = float("-inf")

    def polled(self, now: float) -> None:
        """A poll has succeeded."""
        self._total = self.at(now)
        self._last = now
        self.up, self.interrupted = True, False

    def lost(self) -> None:
        """A poll has failed: time stands still until one succeeds."""
        self.up, self.interrupted = False, True

    def freeze(self, now: float) -> None:
        """Stand still for GRACE. Call it after `polled`."""
        self._frozen_until = now + GRACE

    def running(self, now: float) -> bool:
        """Whether it does not stand still now."""
        return self.up and now >= self._frozen_until

    def at(self, now: float) -> float:
        """The feed time now: a little later than at the last poll, while the feed is up."""
        if not self.up:
            return self._total
        return self._total + min(max(now - max(self._last, self._frozen_until), 0.0), LONGEST_STEP)


class Member:
    """What is known of one worker."""

    def __init__(self, found: Discovered, report: Report, moved: float) -> None:
        self.found = found
        self.report = report
        self.moved = moved
        """Feed time at which its report last changed."""
        self.liveness = Liveness.ALIVE
        self.answer: ProbeAnswer | None = None
        """Its latest answer since it was doubted. A beat does not undo a bad one: its agent may reach what this
        router cannot."""
        self.registered = True
        """Whether the registry's records still have it."""

    def __repr__(self) -> str:
        return f"<Member {self.found.record.id} {self.liveness.value}, moved at {self.moved:.1f}>"


class Membership:
    """The workers of the registry. Feed it with what is read there; it tells the sink.

    Every method takes `now` in seconds of one monotonic clock. Those that return a bool say whether the
    registry should be polled at once, for all records.
    """

    def __init__(self, sink: WorkerSink) -> None:
        self.version = Version()
        """What the members are at. A poll that began at another version has stale records."""
        self._sink = sink
        self._members: dict[str, Member] = {}
        self._clock = FeedClock()
        self._collected = 0
        self._strangers: set[str] = set()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, worker_id: str) -> Member | None:
        return self._members.get(worker_id)

    @property
    def feed_up(self) -> bool:
        """Whether the last poll of the registry succeeded."""
        return self._clock.up

    @property
    def to_probe(self) -> list[Discovered]:
        """Those that must be asked themselves: their beats have stopped, or they did not answer the last time."""
        return [
            m.found
            for m in self._members.values()
            if m.liveness is not Liveness.ALIVE or m.answer not in (None, ProbeAnswer.UP)
        ]

    def lost(self) -> None:
        """A poll has failed. Everybody stays as he is."""
        self._clock.lost()

    def polled(self, asked: Version, snapshot: Snapshot, found: Mapping[str, Discovered], now: float) -> bool:
        """A poll has succeeded that was sent when `version` was `asked`. `found` are those of its records that
        may be used."""
        returned, stale = self._clock.interrupted, asked != self.version
        self._clock.polled(now)
        emptied = self.version.epoch not in ("", snapshot.version.epoch)
        renewed = emptied or (not stale and snapshot.version.seq < self.version.seq)
        if returned or renewed:
            self._clock.freeze(now)
        if snapshot.records is not None and not stale:
            sure = not returned and not renewed and snapshot.collected == self._collected
            self._take(snapshot, found, now, left=sure and snapshot.version.seq > self.version.seq)
            self.version = snapshot.version
            self._collected = snapshot.collected
            self._strangers = snapshot.loads.keys() - self._members.keys()
        for worker_id, report in snapshot.loads.items():
            self._moved(worker_id, report, now)
        self._age(now)
        known = self._members.keys() | self._strangers
        return not snapshot.loads.keys() <= known or (snapshot.records is not None and stale)

    def up(self, version: Version, worker_id: str, found: Discovered | None, report: Report, now: float) -> bool:
        """A worker has registered. `found` is None if its record may not be used."""
        if not self._next(version):
            return self._missed(version)
        if found is not None and (joined := self._admit(found, report, now)):
            self._sink.put(*joined)
        if worker_id not in self._members:
            self._strangers.add(worker_id)
        return False

    def down(self, version: Version, worker_id: str, generation: int) -> bool:
        """A worker has left."""
        if not self._next(version):
            return self._missed(version)
        member = self._members.get(worker_id)
        if member is not None and member.found.record.generation <= generation:
            self._remove(worker_id)
        return False

    def beat(self, worker_id: str, report: Report, now: float) -> bool:
        """A worker's report has come."""
        member = self._members.get(worker_id)
        if member is None:
            return worker_id not in self._strangers
        self._moved(worker_id, report, now)
        return report.generation > member.found.record.generation

    def answered(self, worker_id: str, answer: ProbeAnswer, now: float) -> None:
        """A doubted worker was asked itself."""
        member = self._members.get(worker_id)
        if member is None:
            return
        member.answer = answer
        if answer is ProbeAnswer.UP:
            if member.liveness is Liveness.DOWN:
                member.liveness = Liveness.LATE
            self._sink.mark_up(worker_id)
            return
        self._sink.mark_suspect(worker_id)
        self._expire(now)

    # inside

    def _take(self, snapshot: Snapshot, found: Mapping[str, Discovered], now: float, *, left: bool) -> None:
        """Adopt all records. `left`: whoever has gone missing has left, rather than been lost by the store."""
        records = snapshot.records or {}
        joined: list[Discovered] = []
        for worker_id, one in found.items():
            report = snapshot.loads.get(worker_id)
            if report is not None:
                joined += self._admit(one, report, now)
        if joined:
            self._sink.put(*joined)
        gone: list[str] = []
        for worker_id, member in self._members.items():
            missing = member.registered and worker_id not in records
            member.registered = worker_id in records
            if left and missing:
                gone.append(worker_id)
        self._remove(*gone)

    def _admit(self, found: Discovered, report: Report, now: float) -> list[Discovered]:
        """Adopt a record. Returns what the sink must be given: one worker that is new or has changed, or none."""
        worker_id, generation = found.record.id, found.record.generation
        if report.generation != generation:
            return []
        member = self._members.get(worker_id)
        if member is not None and generation <= member.found.record.generation:
            if generation < member.found.record.generation and member.liveness is not Liveness.DOWN:
                return []  # a zombie of an earlier start
            if found.record == member.found.record and found.endpoint == member.found.endpoint:
                member.registered = True
                self._moved(worker_id, report, now)
                return []
        self._members[worker_id] = Member(found, report, self._clock.at(now))
        return [Discovered(found.record, found.endpoint, report.load)]

    def _moved(self, worker_id: str, report: Report, now: float) -> None:
        member = self._members.get(worker_id)
        if member is None or report.generation != member.found.record.generation or report == member.report:
            return
        member.report = report
        member.moved = self._clock.at(now)
        member.liveness = Liveness.ALIVE
        self._sink.report(worker_id, report.load)

    def _age(self, now: float) -> None:
        time = self._clock.at(now)
        gone: list[str] = []
        for worker_id, member in self._members.items():
            age = time - member.moved
            if member.liveness is Liveness.ALIVE and age >= LATE_AFTER:
                member.liveness = Liveness.LATE
            elif member.liveness is Liveness.DOWN and not member.registered and age >= FORGET_AFTER:
                gone.append(worker_id)
        self._remove(*gone)
        self._expire(now)

    def _expire(self, now: float) -> None:
        """Put out those whose time is over and who did not answer.

        If more than half of a fleet falls silent at once, the fault is more likely this router's: then only
        those go that are known to be gone. While feed time stands still nobody goes.
        """
        if not self._clock.running(now):
            return
        time = self._clock.at(now)
        present = sum(member.liveness is not Liveness.DOWN for member in self._members.values())
        doubted = [m for m in self._members.values() if m.liveness is Liveness.LATE]
        ill = [member for member in doubted if member.answer is not ProbeAnswer.UP]
        believed: tuple[ProbeAnswer, ...] = (ProbeAnswer.GONE, ProbeAnswer.NONE)
        if present > 2 and len(ill) * 2 > present:
            believed = (ProbeAnswer.GONE,)
        for member in ill:
            if time - member.moved >= TTL and member.answer in believed:
                member.liveness = Liveness.DOWN
                self._sink.mark_down(member.found.record.id)

    def _remove(self, *worker_ids: str) -> None:
        for worker_id in worker_ids:
            del self._members[worker_id]
        if worker_ids:
            self._sink.remove(*worker_ids)

    def _next(self, version: Version) -> bool:
        """Whether this is the change that follows what is known; if so, it is known now."""
        if version.epoch != self.version.epoch or version.seq != self.version.seq + 1:
            return False
        self.version = version
        return True

    def _missed(self, version: Version) -> bool:
        """Whether a change that is not the next one shows that something was missed, rather than is old."""
        return version.epoch != self.version.epoch or version.seq > self.version.seq

"""Decides which registered workers are members, and which are alive. No I/O and no clock of its own.

A worker is alive while the number in its beats changes, so no clocks are compared between machines. Ages are measured
in *feed time*, which advances only between successful polls of the registry: an outage or a pause of this process
cannot make a worker look dead. A worker without beats is probed before it goes down.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Protocol

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.workers.registry.messages import Beat, Snapshot, Version
from vllama_pool.workers.registry.record import LoadReport

LATE_AFTER = 2.0
"""Seconds of feed time without a beat after which a worker is probed."""
TTL = 3.0
"""Seconds of feed time without a beat or a good probe after which a worker is down."""
GRACE = 2 * TTL
"""Seconds without feed time after the registry returned or was emptied, in which agents reconnect."""
FORGET_AFTER = 60.0
"""Seconds of feed time without a beat after which an unregistered down worker is removed."""
LONGEST_STEP = 1.0
"""Maximum seconds of feed time per poll. A longer gap is a pause of this process."""


class WorkerSink(Protocol):
    """Implemented by the pool."""

    def put(self, *found: Discovered) -> None: ...
    def remove(self, *worker_ids: str) -> None: ...
    def report(self, worker_id: str, load: LoadReport, /) -> object: ...
    def mark_up(self, worker_id: str, /) -> None: ...
    def mark_suspect(self, worker_id: str, /) -> None: ...
    def mark_down(self, worker_id: str, /) -> None: ...


class ProbeAnswer(enum.Enum):
    UP = "up"
    GONE = "gone"
    """Connection refused, or the engine is dead."""
    NONE = "none"
    """No answer: frozen or unreachable."""


class Liveness(enum.Enum):
    ALIVE = "alive"
    LATE = "late"
    """No beat for LATE_AFTER."""
    DOWN = "down"
    """No beat for TTL, and no good probe."""


class FeedClock:
    """Feed time. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self.up = False
        self.interrupted = False
        """A poll has failed since the last success."""
        self._total = 0.0
        self._last = 0.0
        self._frozen_until = float("-inf")

    def polled(self, now: float) -> None:
        self._total = self.at(now)
        self._last = now
        self.up, self.interrupted = True, False

    def poll_failed(self) -> None:
        self.up, self.interrupted = False, True

    def freeze(self, now: float) -> None:
        """Stop for GRACE. Call it after `polled`."""
        self._frozen_until = now + GRACE

    @property
    def total(self) -> float:
        """At the last poll."""
        return self._total

    def running(self, now: float) -> bool:
        return self.up and now >= self._frozen_until

    def at(self, now: float) -> float:
        if not self.up:
            return self._total
        return self._total + min(max(now - max(self._last, self._frozen_until), 0.0), LONGEST_STEP)


class Member:
    def __init__(self, found: Discovered, beat: Beat, beat_at: float) -> None:
        self.found = found
        self.beat = beat
        self.beat_at = beat_at
        """Feed time."""
        self.liveness = Liveness.ALIVE
        self.probe: ProbeAnswer | None = None
        """The latest probe. Beats do not reset a bad one: the agent may reach what this router cannot."""
        self.registered = True
        """True while the registry holds its record."""
        self.restored = False
        """True for a worker of the saved view until its first beat."""

    def __repr__(self) -> str:
        return f"<Member {self.found.record.id} {self.liveness.value}, last beat at {self.beat_at:.1f}>"


class Membership:
    """Turns polls, events and probes into calls of the sink.

    `now` is in monotonic seconds. Methods return True if all records should be polled at once.
    """

    def __init__(self, sink: WorkerSink) -> None:
        self.version = Version()
        """Version that the members reflect. A poll that began at another one has stale records."""
        self._sink = sink
        self._members: dict[str, Member] = {}
        self._clock = FeedClock()
        self._collected = 0
        self._unusable: set[str] = set()
        """Ids with beats but without a usable record. They do not trigger polls."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def found(self) -> dict[str, tuple[Discovered, LoadReport]]:
        """The members and their latest reports, by id."""
        return {worker_id: (member.found, member.beat.load) for worker_id, member in self._members.items()}

    def get(self, worker_id: str) -> Member | None:
        return self._members.get(worker_id)

    @property
    def feed_up(self) -> bool:
        """True if the last poll of the registry succeeded."""
        return self._clock.up

    @property
    def to_probe(self) -> list[Discovered]:
        """Workers that are late or down, or failed their last probe."""
        return [
            m.found
            for m in self._members.values()
            if m.liveness is not Liveness.ALIVE or m.probe not in (None, ProbeAnswer.UP)
        ]

    def poll_failed(self) -> None:
        self._clock.poll_failed()

    def restore(self, *saved: Discovered) -> None:
        """Add workers of the saved view. They are down until a probe or a beat, and leave if none registers."""
        new = [found for found in saved if found.record.id not in self._members]
        self._sink.put(*new)
        for found in new:
            member = Member(found, Beat(found.record.generation, 0, found.load or LoadReport()), self._clock.total)
            member.liveness, member.registered, member.restored = Liveness.DOWN, False, True
            self._members[found.record.id] = member
            self._sink.mark_down(found.record.id)

    def polled(self, since: Version, snapshot: Snapshot, found: Mapping[str, Discovered], now: float) -> bool:
        """`since` is `version` when the poll was sent; `found` are its usable records."""
        returned, stale = self._clock.interrupted, since != self.version
        self._clock.polled(now)
        emptied = self.version.epoch not in ("", snapshot.version.epoch)
        renewed = emptied or (not stale and snapshot.version.seq < self.version.seq)
        if returned or renewed:
            self._clock.freeze(now)
        if snapshot.records is not None and not stale:
            reliable = not returned and not renewed and snapshot.collected == self._collected
            self._apply_records(snapshot, found, now, left=reliable and snapshot.version.seq > self.version.seq)
            self.version = snapshot.version
            self._collected = snapshot.collected
            self._unusable = snapshot.beats.keys() - self._members.keys()
        for worker_id, beat in snapshot.beats.items():
            self._update(worker_id, beat, now)
        self._age(now)
        accepted_ids = self._members.keys() | self._unusable
        return not snapshot.beats.keys() <= accepted_ids or (snapshot.records is not None and stale)

    def joined(self, version: Version, worker_id: str, found: Discovered | None, beat: Beat, now: float) -> bool:
        """`found` is None if the record must not be used."""
        if not self._next(version):
            return self._missed(version)
        if found is not None and (changed := self._admit(found, beat, now)):
            self._sink.put(*changed)
        if worker_id not in self._members:
            self._unusable.add(worker_id)
        return False

    def left(self, version: Version, worker_id: str, generation: int) -> bool:
        """Remove the worker, also if changes before were missed: the records after a flush do not tell who left."""
        missed = not self._next(version)
        if missed and not self._missed(version):
            return False
        member = self._members.get(worker_id)
        if member is not None and member.found.record.generation <= generation:
            self._remove(worker_id)
        return missed

    def beat_received(self, worker_id: str, beat: Beat, now: float) -> bool:
        member = self._members.get(worker_id)
        if member is None:
            return worker_id not in self._unusable
        self._update(worker_id, beat, now)
        return beat.generation > member.found.record.generation

    def probed(self, worker_id: str, answer: ProbeAnswer, now: float) -> None:
        member = self._members.get(worker_id)
        if member is None:
            return
        member.probe = answer
        if answer is ProbeAnswer.UP:
            if member.liveness is Liveness.DOWN:
                member.liveness = Liveness.LATE
            self._sink.mark_up(worker_id)
            return
        self._sink.mark_suspect(worker_id)
        self._expire(now)

    def _apply_records(self, snapshot: Snapshot, found: Mapping[str, Discovered], now: float, *, left: bool) -> None:
        """Apply a full set of records. `left`: missing workers have deregistered."""
        records = snapshot.records or {}
        changed: list[Discovered] = []
        for worker_id, one in found.items():
            beat = snapshot.beats.get(worker_id)
            if beat is not None:
                changed += self._admit(one, beat, now)
        if changed:
            self._sink.put(*changed)
        gone: list[str] = []
        for worker_id, member in self._members.items():
            missing = member.registered and worker_id not in records
            member.registered = worker_id in records
            if left and missing:
                gone.append(worker_id)
        self._remove(*gone)

    def _admit(self, found: Discovered, beat: Beat, now: float) -> list[Discovered]:
        """Apply a record. Return the worker in a list if it is new or changed."""
        worker_id, generation = found.record.id, found.record.generation
        if beat.generation != generation:
            return []
        member = self._members.get(worker_id)
        if member is not None and generation <= member.found.record.generation:
            if generation < member.found.record.generation and member.liveness is not Liveness.DOWN:
                return []  # a process of an earlier start that still runs
            if found.record == member.found.record and found.endpoint == member.found.endpoint:
                member.registered = True
                self._update(worker_id, beat, now)
                return []
        self._members[worker_id] = Member(found, beat, self._clock.at(now))
        return [Discovered(found.record, found.endpoint, beat.load)]

    def _update(self, worker_id: str, beat: Beat, now: float) -> None:
        member = self._members.get(worker_id)
        if member is None or beat.generation != member.found.record.generation or beat == member.beat:
            return
        member.beat, member.restored = beat, False
        member.beat_at = self._clock.at(now)
        member.liveness = Liveness.ALIVE
        self._sink.report(worker_id, beat.load)

    def _age(self, now: float) -> None:
        time = self._clock.at(now)
        gone: list[str] = []
        for worker_id, member in self._members.items():
            age = time - member.beat_at
            if member.liveness is Liveness.ALIVE and age >= LATE_AFTER:
                member.liveness = Liveness.LATE
            elif member.registered or age < FORGET_AFTER:
                continue
            elif member.liveness is Liveness.DOWN or member.restored:
                gone.append(worker_id)
        self._remove(*gone)
        self._expire(now)

    def _expire(self, now: float) -> None:
        """Mark late workers down after TTL if their probe failed.

        If more than half of the fleet fails, the fault is probably this router's: then only GONE workers go down.
        """
        if not self._clock.running(now):
            return
        time = self._clock.at(now)
        present = sum(member.liveness is not Liveness.DOWN for member in self._members.values())
        late = [member for member in self._members.values() if member.liveness is Liveness.LATE]
        failing = [member for member in late if member.probe is not ProbeAnswer.UP]
        conclusive: tuple[ProbeAnswer, ...] = (ProbeAnswer.GONE, ProbeAnswer.NONE)
        if present > 2 and len(failing) * 2 > present:
            conclusive = (ProbeAnswer.GONE,)
        for member in failing:
            if time - member.beat_at >= TTL and member.probe in conclusive:
                member.liveness = Liveness.DOWN
                self._sink.mark_down(member.found.record.id)

    def _remove(self, *worker_ids: str) -> None:
        for worker_id in worker_ids:
            del self._members[worker_id]
        if worker_ids:
            self._sink.remove(*worker_ids)

    def _next(self, version: Version) -> bool:
        """Advance to `version` if it directly follows the current one."""
        if version.epoch != self.version.epoch or version.seq != self.version.seq + 1:
            return False
        self.version = version
        return True

    def _missed(self, version: Version) -> bool:
        """True if `version` is ahead, so that changes were missed."""
        return version.epoch != self.version.epoch or version.seq > self.version.seq

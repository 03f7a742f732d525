"""Encode and decode the registry's reports, versions and events. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vllama_pool.workers.registry.record import Load, WorkerState

_MAX_NOTE = 200


@dataclass(frozen=True, slots=True)
class Report:
    """A numbered load report. A worker is alive as long as its (generation, n) keeps changing."""

    generation: int
    n: int
    """Beat number."""
    load: Load


@dataclass(frozen=True, slots=True)
class Version:
    """Version of the records. The epoch changes when the store is flushed or replaced."""

    epoch: str = ""
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: Version
    collected: int
    """Number of collected workers. If it grew, an absent worker may not have left."""
    routers: int
    """Router processes that poll, including this one."""
    records: Mapping[str, bytes] | None
    """Worker id -> envelope; None if unchanged since the known version."""
    loads: Mapping[str, Report]
    models: str = ""
    """Version of the virtual models. Changes with every virtual model and when the store is emptied."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription is active. Earlier changes must be polled for."""


@dataclass(frozen=True, slots=True)
class Up:
    worker_id: str
    version: Version
    report: Report
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Down:
    """A worker has left. A crash sends no event."""

    worker_id: str
    version: Version
    generation: int


@dataclass(frozen=True, slots=True)
class Beat:
    worker_id: str
    report: Report


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """A virtual model or its tombstone was stored. An empty envelope means that the entry was dropped."""

    asked: bool
    """True if routers must answer with `seen`."""
    before: str
    """`Snapshot.models` before this change."""
    after: str
    key: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """A router process has applied a `ModelChanged`."""

    version: str
    """`ModelChanged.after`."""
    router: str


Event = Subscribed | Up | Down | Beat | ModelChanged | ModelSeen


def encode_report(report: Report) -> str:
    """Encode as one line: `generation:n:state:running:waiting:kv:tokens per second:restarts:note`."""
    load = report.load
    note = "".join(c if c.isprintable() else " " for c in load.note)[:_MAX_NOTE]
    return (
        f"{report.generation}:{report.n}:{load.state}:{load.running}:{load.waiting}:{load.kv_usage:.3f}"
        f":{load.tokens_per_second:.1f}:{load.restarts}:{note}"
    )


def decode_report(data: bytes) -> Report | None:
    """Decode a report. Returns None if it is damaged or of an incompatible version."""
    try:
        fields = data.decode().split(":", 8)
        generation, n, state, running, waiting, kv_usage, speed, restarts, note = fields
        load = Load(
            state=WorkerState(state),
            running=int(running),
            waiting=int(waiting),
            kv_usage=float(kv_usage),
            tokens_per_second=float(speed),
            restarts=int(restarts),
            note=note,
        )
        report = Report(int(generation), int(n), load)
    except ValueError:
        return None
    numbers = (report.generation, report.n, load.running, load.waiting, load.restarts)
    rates = (load.kv_usage, load.tokens_per_second)
    sound = min(numbers) >= 0 and all(math.isfinite(rate) and rate >= 0 for rate in rates)
    return report if sound else None


def encode_seen(seen: ModelSeen) -> str:
    return f"seen\n{seen.version}\n{seen.router}"


def decode_event(data: bytes) -> Up | Down | Beat | ModelChanged | ModelSeen | None:
    """Decode a message. Returns None if it is damaged or of an unknown kind; polling repairs the loss."""
    kind, _, rest = data.partition(b"\n")
    try:
        match kind:
            case b"load":
                worker_id, line = rest.split(b"\n", 1)
                report = decode_report(line)
                return Beat(worker_id.decode(), report) if report else None
            case b"up":
                epoch, seq, worker_id, line, envelope = rest.split(b"\n", 4)
                report = decode_report(line)
                version = Version(epoch.decode(), int(seq))
                return Up(worker_id.decode(), version, report, envelope) if report else None
            case b"down":
                epoch, seq, worker_id, generation = rest.split(b"\n", 3)
                return Down(worker_id.decode(), Version(epoch.decode(), int(seq)), int(generation))
            case b"model":
                asked, before, after, key, envelope = rest.split(b"\n", 4)
                return ModelChanged(asked == b"1", before.decode(), after.decode(), key.decode(), envelope)
            case b"seen":
                known, router = rest.split(b"\n", 1)
                return ModelSeen(known.decode(), router.decode())
    except ValueError:
        return None
    return None

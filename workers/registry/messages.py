"""The registry's beats, versions and events, and their encoding. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllama_pool.workers.registry.record import EngineExit, LoadReport, WorkerState

_MAX_NOTE = 200
_EXIT = "\x1f"
"""Between note and exit. Notes are printable, and older versions take the exit as a part of the note."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A numbered load report. A worker is alive as long as (generation, number) changes."""

    generation: int
    number: int
    load: LoadReport


@dataclass(frozen=True, slots=True)
class Version:
    """Version of the records. A flush changes the epoch."""

    epoch: str = ""
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: Version
    collected: int
    """Number of collected workers. If it grew, a missing worker may not have deregistered."""
    records: Mapping[str, bytes] | None
    """Worker id -> envelope; None if unchanged since the known version."""
    beats: Mapping[str, Beat]
    models: str = ""
    """Version of the virtual models. A flush changes it too."""
    wants: Mapping[str, bytes] = field(default_factory=dict)
    """Worker id -> entry of what operators ask of it, unverified."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription is active; poll for earlier changes."""


@dataclass(frozen=True, slots=True)
class WorkerUp:
    worker_id: str
    version: Version
    beat: Beat
    envelope: bytes


@dataclass(frozen=True, slots=True)
class WorkerDown:
    """A worker has deregistered. A crash sends no event."""

    worker_id: str
    version: Version
    generation: int


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    worker_id: str
    beat: Beat


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """An entry of a virtual model changed. An empty envelope means that it was dropped."""

    wants_ack: bool
    before: str
    """`Snapshot.models` before the change."""
    after: str
    key: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class ModelAck:
    """A router process has applied a `ModelChanged`."""

    version: str
    """`ModelChanged.after`."""
    router: str


@dataclass(frozen=True, slots=True)
class WantChanged:
    """Operators ask something else of a worker."""

    worker_id: str
    entry: bytes
    """Unverified."""


@dataclass(frozen=True, slots=True)
class PoisonNews:
    """Routers tell each other about crashed engines and the requests that they refuse."""

    envelope: bytes
    """Unverified."""


Event = Subscribed | WorkerUp | WorkerDown | WorkerBeat | ModelChanged | ModelAck | WantChanged | PoisonNews


def encode_beat(beat: Beat) -> str:
    """Encode as one line: `generation:number:state:running:waiting:kv:tokens per second:restarts:note`.

    The note may be followed by the engine's exit: a separator and `number:1 if it crashed else 0:cause`.
    """
    load = beat.load
    note = "".join(c if c.isprintable() else " " for c in load.note)[:_MAX_NOTE]
    return (
        f"{beat.generation}:{beat.number}:{load.state}:{load.running}:{load.waiting}:{load.kv_usage:.3f}"
        f":{load.tokens_per_second:.1f}:{load.restarts}:{note}{_encode_exit(load.exit)}"
    )


def decode_beat(data: bytes) -> Beat | None:
    """Return None for damaged data."""
    try:
        fields = data.decode().split(":", 8)
        generation, number, state, running, waiting, kv_usage, speed, restarts, rest = fields
        note, _, exit = rest.partition(_EXIT)
        load = LoadReport(
            state=_state(state),
            running=int(running),
            waiting=int(waiting),
            kv_usage=float(kv_usage),
            tokens_per_second=float(speed),
            restarts=int(restarts),
            note=note,
            exit=_decode_exit(exit),
        )
        beat = Beat(int(generation), int(number), load)
    except ValueError:
        return None
    numbers = (beat.generation, beat.number, load.running, load.waiting, load.restarts)
    rates = (load.kv_usage, load.tokens_per_second)
    sound = min(numbers) >= 0 and all(math.isfinite(rate) and rate >= 0 for rate in rates)
    return beat if sound else None


def _encode_exit(exit: EngineExit | None) -> str:
    if exit is None:
        return ""
    cause = "".join(c if c.isprintable() else " " for c in exit.cause)[:_MAX_NOTE]
    return f"{_EXIT}{exit.number}:{exit.crashed:d}:{cause}"


def _decode_exit(text: str) -> EngineExit | None:
    """Raises ValueError."""
    if not text:
        return None
    number, crashed, cause = text.split(":", 2)
    if not number.isdecimal() or crashed not in ("0", "1"):
        raise ValueError("not an exit")
    return EngineExit(number=int(number), crashed=crashed == "1", cause=cause)


def _state(text: str) -> WorkerState:
    try:
        return WorkerState(text)
    except ValueError:
        return WorkerState.UNKNOWN


def encode_ack(ack: ModelAck) -> str:
    return f"seen\n{ack.version}\n{ack.router}"


def decode_event(data: bytes) -> Event | None:
    """Return None for damaged data or an unknown kind; polling repairs the loss."""
    kind, _, rest = data.partition(b"\n")
    try:
        match kind:
            case b"load":
                worker_id, line = rest.split(b"\n", 1)
                beat = decode_beat(line)
                return WorkerBeat(worker_id.decode(), beat) if beat else None
            case b"up":
                epoch, seq, worker_id, line, envelope = rest.split(b"\n", 4)
                beat = decode_beat(line)
                version = Version(epoch.decode(), int(seq))
                return WorkerUp(worker_id.decode(), version, beat, envelope) if beat else None
            case b"down":
                epoch, seq, worker_id, generation = rest.split(b"\n", 3)
                return WorkerDown(worker_id.decode(), Version(epoch.decode(), int(seq)), int(generation))
            case b"model":
                wants_ack, before, after, key, envelope = rest.split(b"\n", 4)
                return ModelChanged(wants_ack == b"1", before.decode(), after.decode(), key.decode(), envelope)
            case b"seen":
                change, router = rest.split(b"\n", 1)
                return ModelAck(change.decode(), router.decode())
            case b"want":
                worker_id, entry = rest.split(b"\n", 1)
                return WantChanged(worker_id.decode(), entry)
            case b"poison":
                return PoisonNews(rest)
    except ValueError:
        return None
    return None

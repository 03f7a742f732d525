"""The workers in `GET /admin/workers`, which `vllama ps` prints."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from vllama_pool.router.balance.worker import DRAINING_ASKED, Worker


class ServedModel(msgspec.Struct, frozen=True):
    name: str
    aliases: tuple[str, ...] = ()
    context_length: int = 0
    """Tokens; 0 if unknown."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    url: str
    state: str
    """A `WorkerState`, "down", "set aside" or "draining (asked)"."""
    models: tuple[str, ...]
    running: int
    waiting: int
    in_flight: int
    """Requests of this router."""
    slots: int
    kv_usage: float
    tokens_per_second: float
    restarts: int
    note: str
    """Why it is set aside or not ready, why the latest connection failed, or why it is silent."""
    breaker: str
    """closed, open, half-open, suspect or silent."""
    engine: str
    engine_version: str
    speed: float
    """Relative to the median of its model's workers."""
    served: tuple[ServedModel, ...] = ()
    tags: tuple[str, ...] = ()
    drained: bool = False
    """Operators have asked that it drains."""


def view_worker(worker: Worker, now: float) -> WorkerView:
    record, load = worker.record, worker.last_report
    return WorkerView(
        id=record.id,
        url=record.url,
        state=_state(worker),
        models=tuple(model.name for model in record.models),
        running=load.running,
        waiting=load.waiting,
        in_flight=worker.in_flight,
        slots=record.slots,
        kv_usage=load.kv_usage,
        tokens_per_second=load.tokens_per_second,
        restarts=load.restarts,
        note=worker.set_aside or load.note or _problem(worker),
        breaker=worker.health.describe(now),
        engine=record.engine,
        engine_version=record.engine_version,
        speed=round(worker.speed.full, 3),
        served=tuple(ServedModel(model.name, model.aliases, model.context_length) for model in record.models),
        tags=record.tags,
        drained=worker.drained,
    )


def _state(worker: Worker) -> str:
    if worker.down:
        return "down"
    if worker.set_aside:
        return "set aside"
    return DRAINING_ASKED if worker.drained and worker.serving else str(worker.last_report.state)


def _problem(worker: Worker) -> str:
    health = worker.health
    return worker.problem if health.link.is_open or health.silent else ""


def view_workers(workers: Iterable[Worker], now: float) -> tuple[WorkerView, ...]:
    return tuple(view_worker(worker, now) for worker in sorted(workers, key=lambda worker: worker.id))

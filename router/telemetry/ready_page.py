"""The body of `GET /readyz`: whether the process takes new traffic, and which models it can serve. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from vllama_pool.router.balance.worker import Replica, Worker

Policy: TypeAlias = Literal["process", "any-model", "all-models"]
"""Conditions of `/readyz`, besides draining and a fleet that was never seen: nothing, no available model, or one
that is not available."""

NEVER_SEEN = "the router has neither read the registry nor found a worker yet"
NO_MODEL = "no model has an available worker"


class LastFailure(msgspec.Struct, frozen=True):
    kind: str
    """The error's class: Lost, Unavailable, Faulty, Busy or ModelGone, "Probe" for a failed health check, or "Silent"
    for a worker that generates nothing."""
    seconds_ago: float


class ModelReady(msgspec.Struct, frozen=True, omit_defaults=True):
    """The workers of one model, as this router process sees them."""

    workers: int
    available: int
    """Workers that serve, are up and healthy."""
    answered: int
    """Available workers whose engine has lately produced a token, for any of its models."""
    full: int
    """Available workers without a free slot."""
    waiting: int
    """Requests that wait inside its workers, as reported, and in this router."""
    maintenance: bool = False
    last_failure: LastFailure | None = None

    @property
    def can_answer(self) -> bool:
        return self.available > 0 and not self.maintenance


class Counts(msgspec.Struct, frozen=True):
    known: int
    available: int
    """Those with an available worker."""


class ReadyPage(msgspec.Struct, frozen=True, omit_defaults=True):
    ready: bool
    reasons: tuple[str, ...] = ()
    """Why it is not ready."""
    counts: Counts | None = None
    models: dict[str, ModelReady] | None = None
    """By name. Absent for clients that may not know the names."""


def model_ready(
    replicas: Iterable[Replica], now: float, window: float, *, queued: int = 0, maintenance: bool = False
) -> ModelReady:
    """`window`: seconds for which a token is recent. `queued`: requests of the model that wait in this router."""
    workers = {replica.worker: None for replica in replicas}
    available = [worker for worker in workers if worker.is_available(now)]
    return ModelReady(
        workers=len(workers),
        available=len(available),
        answered=sum(now - worker.answered_at <= window for worker in available),
        full=sum(worker.full for worker in available),
        waiting=queued + sum(worker.last_report.waiting for worker in workers),
        maintenance=maintenance,
        last_failure=_last_failure(workers, now),
    )


def not_ready(policy: Policy, draining: str, has_seen_fleet: bool, models: Mapping[str, ModelReady]) -> tuple[str, ...]:
    """Return why the process should get no new traffic; nothing if it should.

    The reasons name no model: they are shown to everybody.
    """
    reasons = [draining] if draining else []
    if not has_seen_fleet:
        reasons.append(NEVER_SEEN)
    missing = sum(not model.can_answer for model in models.values())
    if policy != "process" and models and missing == len(models):
        reasons.append(NO_MODEL)
    elif policy == "all-models" and missing:
        reasons.append(f"{missing} of {len(models)} models have no available worker")
    return tuple(reasons)


def counts(models: Collection[ModelReady]) -> Counts:
    return Counts(len(models), sum(model.can_answer for model in models))


def _last_failure(workers: Iterable[Worker], now: float) -> LastFailure | None:
    failures = [worker.last_failure for worker in workers if worker.last_failure is not None]
    if not failures:
        return None
    at, kind = max(failures)
    return LastFailure(kind, round(now - at, 1))

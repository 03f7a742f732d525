"""Chooses the workers that need a canary: a request for one token that no client has sent. Pure.

Traffic is the better test, so a canary goes only where it does not tell: to a worker whose engine has produced no token
for a while, if requests wait there, the latest one failed, or somebody asks whether the router is ready. To an ejected
worker it is the probe that readmits it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllama_pool.router.balance.worker import Worker

KINDS = ("completion", "embedding")
"""Capabilities that a canary can test."""
RECHECK = 3.0
"""Seconds between two canaries to a worker that is out of rotation."""


@dataclass(frozen=True, slots=True)
class Need:
    """The conditions for canaries that hold for all workers."""

    interval: float
    """Seconds without a token after which a worker is in doubt. Positive."""
    readiness_asked: bool
    """Somebody has lately asked for `/readyz`."""


@dataclass(frozen=True, slots=True)
class Question:
    model: str
    """The served name."""
    embeds: bool
    """True if the model embeds instead of generating."""


def question_for(worker: Worker) -> Question | None:
    """Ask the first model that a canary can test: all of a worker's models share its engine. None if there is none."""
    for model in worker.record.models:
        kinds = [kind for kind in KINDS if kind in model.capabilities]
        if kinds:
            return Question(model.name, embeds=kinds[0] == "embedding")
    return None


def is_due(worker: Worker, need: Need, latest: float, now: float) -> bool:
    """`latest`: when the worker got its latest canary, or became known.

    False for a worker that does not serve or is down; and for one that is full or has a queue, because it may be slow
    without being ill.
    """
    if not worker.is_open or worker.down:
        return False
    health = worker.health
    if health.silent:
        return now - latest >= RECHECK
    if worker.full or worker.last_report.waiting:
        return False
    if not health.is_closed:
        return health.is_healthy(now) and now - latest >= RECHECK
    if now - latest < need.interval or now - worker.answered_at < need.interval:
        return False
    return need.readiness_asked or worker.in_flight > 0 or worker.troubled

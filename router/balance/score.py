"""Scores of workers: load per speed. Policies compare them."""

from __future__ import annotations

from vllama_pool.router.balance.worker import Worker


def score(worker: Worker, now: float) -> float:
    """Return the load per speed after one more request: lower is better."""
    value = rank(worker, now)
    return value if value > 0 else -1 / value


def rank(worker: Worker, now: float) -> float:
    """Return the score of a full worker, and -1 / score of one with a free slot, which thus ranks first.

    Measured speed counts only if the worker is full, when the queue moves at that speed. With a free slot the request
    starts at once, and a faster worker frees its slots sooner anyway: counting speed too would square it. The declared
    speed always counts, and a pace far below that of its peers.
    """
    load = worker.in_flight + worker.others_load
    full = worker.in_flight >= worker.full_at
    own = worker.speed
    speed = own.full if full else own.free
    if now < own.full_share_at:
        speed *= own.weight(now)
    if worker.troubled:
        speed /= worker.health.penalty(now)
    return (load + 1) / speed if full else -speed / (load + 1)

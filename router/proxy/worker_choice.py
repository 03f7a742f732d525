"""Chooses the worker of a request's next attempt, as far as the queue before full workers lets it."""

from __future__ import annotations

import logging
from collections.abc import Collection

from vllama_pool.router.admission.worker_queue import WorkerQueue
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.select import choose, find
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.waiting_request import choose_with_room
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.decisions import Choice, choice_of

_log = logging.getLogger(__name__)


def choose_worker(
    shared: Shared, call: ForwardRequest, workers: WorkerQueue, recovery: Recovery | None
) -> Replica | None:
    """Return the worker of the next attempt; None if none is left, or the request must wait for one."""
    first = recovery is None or not recovery.failures
    if (workers.waiting and first) or (recovery is not None and recovery.returned):
        return None
    replica = pick(shared, call, recovery) if recovery is None or first else pick_apart(shared, call, recovery)
    if replica is not None:
        worker = replica.worker
        if worker.in_flight >= worker.full_at and first:
            replica = _beside_full(shared, call, workers, recovery, replica)
            if replica is None:
                return None
        note_choice(shared, call, recovery, replica.worker)
    return replica


def pick(
    shared: Shared, call: ForwardRequest, recovery: Recovery | None, avoided: Collection[str] = ()
) -> Replica | None:
    """Return a worker, also a full one or a last resort; None if none is left."""
    resolution = call.resolution
    tried = recovery.excluded() if recovery is not None else ()
    if avoided:
        tried = [*tried, *avoided]
    now = shared.upstream.clock.monotonic_ns() / 1e9
    demand = call.demand if resolution.needs_demand else PLAIN
    replica = choose(resolution.groups, tried, now, shared.rng, resolution.policy, demand)
    if shared.debug:
        _log_choice(call.decision.record.id, resolution, replica, tried, now, demand)
    return replica


def pick_apart(shared: Shared, call: ForwardRequest, recovery: Recovery) -> Replica | None:
    """Keep requests that may have crashed an engine from the streams that it was answering."""
    avoided = recovery.avoided() if shared.poison is not None else ()
    replica = pick(shared, call, recovery, avoided) if avoided else None
    apart = replica is not None and replica.worker.is_available(_now(shared)) and not replica.worker.full
    return replica if apart else pick(shared, call, recovery)


def note_choice(shared: Shared, call: ForwardRequest, recovery: Recovery | None, worker: Worker) -> None:
    """Record the choice for `vllama explain`, and that the worker was tried."""
    resolution = call.resolution
    choice = choice_of(worker, resolution.groups, _now(shared)) if resolution.has_choice else Choice(worker.id)
    call.decision.choices += (choice,)
    if recovery is not None:
        recovery.tried.append(worker.id)


def _beside_full(
    shared: Shared, call: ForwardRequest, workers: WorkerQueue, recovery: Recovery | None, replica: Replica
) -> Replica | None:
    """Return the worker to take instead of a full one: None if all are, so that the request must wait.

    Least-load looks at four workers only, and other policies may prefer one although it is full.
    """
    if replica.worker.has_room and workers.bounds.length:
        return replica
    other = _pick_with_room(shared, call, workers, recovery)
    return replica if other is not None and call.resolution.policy is not least_load else other


def _pick_with_room(
    shared: Shared, call: ForwardRequest, workers: WorkerQueue, recovery: Recovery | None
) -> Replica | None:
    """Return None if no worker has room."""
    resolution, demand, now = call.resolution, call.demand, _now(shared)
    found = find(resolution.groups, recovery.excluded() if recovery is not None else (), now, demand)
    if found is None:
        return None
    return choose_with_room(found, resolution, now, shared.rng, demand, none_waits=not workers.bounds.length)


def _now(shared: Shared) -> float:
    """Monotonic seconds."""
    return shared.upstream.clock.monotonic_ns() / 1e9


def _log_choice(
    request_id: str, resolution: Resolution, replica: Replica | None, tried: Collection[str], now: float, demand: Demand
) -> None:
    others = resolution.rejections(tried, now, replica, demand)
    reasons = ", ".join(f"{worker}: {reason}" for worker, reason in others.items()) or "none"
    chosen = replica.worker.id if replica else "no worker"
    _log.debug("request %s: chose %s for %s; others: %s", request_id, chosen, resolution.model, reasons)

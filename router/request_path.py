"""Builds the path of an inference request: handler, forwarder, upstream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.handlers.inference import InferenceHandler
from vllama_pool.router.proxy.canary import Canaries
from vllama_pool.router.proxy.collaborators import Shared, Upstream
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.lease_audit import LeaseAudit
from vllama_pool.router.proxy.shadow import Shadows
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch
from vllama_pool.router.proxy.timeouts import Timeouts, TimeoutTable
from vllama_pool.router.proxy.waiting_request import resolve_anew
from vllama_pool.router.state import Collaborators, RouterState


@dataclass(frozen=True, slots=True)
class RequestPath:
    inference: InferenceHandler
    shadows: Shadows
    """To close at the end."""
    canaries: Canaries
    loops: tuple[Callable[[], Coroutine[Any, Any, None]], ...]
    """To run in the background."""


def make_request_path(
    settings: RouterSettings, collaborators: Collaborators, state: RouterState, processes: int
) -> RequestPath:
    """`processes`: those that share the limits."""
    stalls = StallWatch()
    upstream = Upstream(
        client=collaborators.client,
        pool=state.pool,
        stalls=stalls,
        clock=collaborators.clock,
        timeouts=_timeouts(settings),
    )
    shadows = Shadows(upstream, state.routes, collaborators.rng, state.shadow_metrics, processes)
    refresh, debug = state.sources.discovery.refresh, settings.log_level == "debug"
    poison, resolve = state.sources.poison, resolve_anew(state.routes, state.pool)
    shared = Shared(upstream, collaborators.rng, state.admission, refresh, debug, poison, resolve)
    forwarder = Forwarder(shared, processes)
    inference = InferenceHandler(
        routes=state.routes,
        pool=state.pool,
        begin=forwarder.begin,
        clock=collaborators.clock,
        expiry=state.expiry,
        decisions=state.decisions,
        names=state.names,
        shadows=shadows,
        note_absent=state.admission.note_absent,
        body_limit=settings.body_limit,
        traces=settings.trace,
        anonymous=Grant(usage=state.metrics.usage.anonymous),
    )
    canaries = Canaries(upstream, collaborators.rng, state.canary_metrics, settings.canary)
    leases = LeaseAudit(state.pool, lambda: stalls.watched, lambda: canaries.leases, state.lease_metrics)
    deadlines = partial(upstream.deadlines.run, lambda: collaborators.clock.monotonic_ns() / 1e9)
    return RequestPath(inference, shadows, canaries, (stalls.run, canaries.run, leases.run, deadlines))


def _timeouts(settings: RouterSettings) -> TimeoutTable:
    stalls = StallLimits(
        first_content=settings.first_token_timeout,
        mid_response=settings.stall_timeout,
        whole_answer=settings.answer_timeout,
    )
    return TimeoutTable(Timeouts(settings.connect_timeout, stalls, settings.total_timeout))

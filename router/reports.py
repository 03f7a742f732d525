"""The reports that the router processes of one `vllama serve` give each other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.protocol.ollama.expiry import ModelUses
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.state import FileState, RouterState
from vllama_pool.router.telemetry.aggregate import ProcessReport, ProcessReports, RefusedRequest, WaitingRequests
from vllama_pool.router.telemetry.decision_view import (
    DECISIONS,
    ONE_DECISION,
    FoundDecision,
    ProcessDecisions,
    find_decision,
    merge_found,
    view_decisions,
)
from vllama_pool.router.telemetry.recent_names import NamesInUse
from vllama_pool.router.telemetry.report_exchange import Question, Report, ReportExchange
from vllama_pool.router.telemetry.routing_state import ROUTING, RoutingState, routing_state
from vllama_pool.router.telemetry.worker_view import view_workers


class Reports:
    """Each method asks all processes."""

    def __init__(self, state: RouterState, instance: RouterInstance, clock: Clock, file_state: FileState) -> None:
        self._state = Report("state", ProcessReport, lambda: _process_report(state, file_state))
        self._uses = Report("model uses", ModelUses, state.expiry.uses)
        self._routing = Report(ROUTING, RoutingState, lambda: _routing_state(state, file_state))
        self._decisions = Report(
            DECISIONS, ProcessDecisions, lambda: view_decisions(state.decisions, _offset(clock)), takes_long=True
        )
        self._names = Report("names in use", NamesInUse, lambda: state.names.in_use(state.expiry.uses().running))
        self._decision = Question(
            ONE_DECISION, FoundDecision, lambda name: find_decision(state.decisions, name, _offset(clock))
        )
        reports = (self._state, self._uses, self._routing, self._decisions, self._names)
        self.exchange = ReportExchange(instance, reports, (self._decision,))

    async def states(self) -> ProcessReports:
        return ProcessReports(self.exchange.total, await self.exchange.collect(self._state))

    async def uses(self) -> Iterable[ModelUses]:
        return (await self.exchange.collect(self._uses)).values()

    async def decisions(self) -> Iterable[ProcessDecisions]:
        return (await self.exchange.collect(self._decisions)).values()

    async def find_decision(self, request_id: str) -> FoundDecision:
        return merge_found(await self.exchange.ask(self._decision, request_id))

    async def names_in_use(self) -> set[str]:
        return {name for process in (await self.exchange.collect(self._names)).values() for name in process.names}

    async def live_revisions(self) -> Sequence[str]:
        return [process.revision for process in (await self.exchange.collect(self._routing)).values()]


def _process_report(state: RouterState, file_state: FileState) -> ProcessReport:
    discovery, now = state.sources.discovery, time.monotonic()
    return ProcessReport(
        view_workers(state.pool, now),
        discovery.registry_up,
        state.metrics.families(),
        discovery.registry_problem,
        file_state(),
        tuple(state.sources.drains.drained),
        tuple(name for name, panics in state.pool.panics(now) if panics),
        tuple(RefusedRequest(*one) for one in state.sources.poison.listed()),
        tuple(WaitingRequests(*each) for each in state.admission.waiting_by_model()),
    )


def _routing_state(state: RouterState, file_state: FileState) -> RoutingState:
    file, sources = file_state(), state.sources
    return routing_state(
        state.pool,
        caught_up=sources.caught_up,
        registry_problem=sources.discovery.registry_problem,
        revision=file.revision if file is not None else "",
    )


def _offset(clock: Clock) -> int:
    """Return the nanoseconds from monotonic time to Unix time."""
    return clock.time_ns() - clock.monotonic_ns()

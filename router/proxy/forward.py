"""Begins the requests that a worker answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.seat import Terms
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.telemetry.request_record import RequestRecord

Begin = Callable[[ForwardRequest, RequestRecord, ClientWriter, Callable[[], None]], InFlight]


class Forwarder:
    """Owns the retry budgets, one per model."""

    def __init__(self, shared: Shared, processes: int = 1) -> None:
        """`processes`: those of the router, which share the surplus of the budgets."""
        self._admission = shared.admission
        self._processes = processes
        self._version = shared.admission.version
        self._budgets: dict[str, RetryBudget] = {}
        self._terms: dict[Rule | str, Terms] = {}
        """By entry of the routing file, or by served name."""
        self.begin: Begin = partial(InFlight, shared, self._terms_of)
        """Returns a request to `run`, which its owner must close. Its last argument is called before a response that is
        not streamed is written."""

    def __repr__(self) -> str:
        in_flight = sum(budget.in_flight for budget in self._budgets.values())
        return f"<Forwarder {self._admission.waiting} waiting, {in_flight} in flight>"

    def _terms_of(self, resolution: Resolution) -> Terms:
        """Return the model's terms: the same until a reload changes its limits."""
        terms, admission = self._terms.get(resolution.rule or resolution.model), self._admission
        if terms is None or terms.version != admission.version:
            return self._new_terms(resolution)
        return terms

    def _new_terms(self, resolution: Resolution) -> Terms:
        model, admission = resolution.model, self._admission
        if self._version != admission.version:
            self._version = admission.version
            self._terms.clear()
        workers, budget = admission.worker_queue(model), self._budget_of(resolution)
        workers.in_progress = partial(getattr, budget, "in_flight")
        terms = Terms(admission.queue(model), workers, budget, admission.version)
        self._terms[resolution.rule or model] = terms
        return terms

    def _budget_of(self, resolution: Resolution) -> RetryBudget:
        """Return the model's budget, which a change of the routing file keeps."""
        share, more = RetryBudget.TOKENS_PER_REQUEST, 0
        if resolution.rule is not None and (retries := resolution.rule.entry.retries) is not None:
            share, more = retries.budget, retries.attempts - 1
        budget = self._budgets.get(resolution.model)
        if budget is None:
            budget = self._budgets[resolution.model] = RetryBudget(share, more, self._processes)
        elif budget.share != share or budget.retries != more:
            budget.set_limits(share, more)
            # A request of the table before a reload may do this; the next one of the new table restores its limits.
            self._terms = {key: terms for key, terms in self._terms.items() if terms.budget is not budget}
        return budget

"""Begins the requests that a worker answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.attempt import ForwardRequest
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.in_flight import InFlight, Shared
from vllama_pool.router.proxy.seat import Terms
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.request_record import RequestRecord

Begin = Callable[[ForwardRequest, RequestRecord, ClientWriter, Callable[[], None]], InFlight]


class Forwarder:
    """Owns the retry budgets, one per model."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._budgets: dict[str, RetryBudget] = {}
        self._terms: dict[str, Terms] = {}
        self.begin: Begin = partial(InFlight, shared, self._terms_of)
        """Returns a request to `run`, which its owner must close. Its last argument is called before a response that is
        not streamed is written."""

    def __repr__(self) -> str:
        in_flight = sum(budget.in_flight for budget in self._budgets.values())
        return f"<Forwarder {self._shared.admission.waiting} waiting, {in_flight} in flight>"

    def _terms_of(self, resolution: Resolution) -> Terms:
        """Return the model's terms: the same until a reload changes its limits."""
        model, admission = resolution.model, self._shared.admission
        terms = self._terms.get(model)
        if terms is None or terms.rule is not resolution.rule or terms.version != admission.version:
            queue, bound, budget = admission.queue(model), admission.bound(model), self._budget_of(resolution)
            terms = self._terms[model] = Terms(queue, bound, budget, resolution.rule, admission.version)
        return terms

    def _budget_of(self, resolution: Resolution) -> RetryBudget:
        """Return the model's budget, which a change of the routing file keeps."""
        share, more = RetryBudget.TOKENS_PER_REQUEST, 0
        if resolution.rule is not None and (retries := resolution.rule.entry.retries) is not None:
            share, more = retries.budget, retries.attempts - 1
        budget = self._budgets.get(resolution.model)
        if budget is None:
            budget = self._budgets[resolution.model] = RetryBudget(share, more)
        elif budget.share != share or budget.retries != more:
            budget.set_limits(share, more)
        return budget

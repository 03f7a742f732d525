"""Admits requests, and begins those that a worker answers."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.proxy.attempt import ForwardRequest
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.in_flight import InFlight, Shared
from vllama_pool.router.telemetry.request_record import RequestRecord


class Forwarder:
    """Owns the retry budgets, one per model."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._budgets: dict[str, RetryBudget] = {}

    def __repr__(self) -> str:
        in_flight = sum(budget.in_flight for budget in self._budgets.values())
        return f"<Forwarder {self._shared.admission.waiting} waiting, {in_flight} in flight>"

    def begin(
        self, call: ForwardRequest, record: RequestRecord, client: ClientWriter, on_answer: Callable[[], None]
    ) -> InFlight:
        """Admit a request, which its owner must close. Raises ServerBusy.

        `on_answer` is called before a response that is not streamed is written.
        """
        self._shared.admission.acquire(call.resolution)
        model = call.resolution.model
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = RetryBudget()
        budget.begin_request()
        return InFlight(self._shared, call, record, client, budget, on_answer)

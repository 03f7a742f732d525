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
        """Admit a request, which its owner must close. Raises ServerBusy, as may `InFlight.run`.

        `on_answer` is called before a response that is not streamed is written.
        """
        admission, model = self._shared.admission, call.resolution.model
        queue, bound = admission.queue(model), None
        if queue is None:
            bound = admission.bound(model)
            bound.acquire(call.resolution)
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = RetryBudget()
        budget.begin_request()
        queues = (*call.caps, queue) if queue is not None else call.caps
        return InFlight(self._shared, call, record, client, budget, on_answer, bound, queues)

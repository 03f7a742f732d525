"""A request whose answer is continued: what it spends, and what it learns of the workers that fail."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.retry import MAX_ATTEMPTS
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import AttemptFailed, Lost
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.collaborators import Shared
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.worker_choice import note_choice, pick_apart


class Resumption:
    """The owner of one `resume`."""

    def __init__(
        self,
        shared: Shared,
        call: ForwardRequest,
        recovery: Recovery,
        budget: RetryBudget,
        begin: Callable[[Replica], Attempt],
    ) -> None:
        """`budget`: of the model. `begin` begins the request's next attempt."""
        self._shared = shared
        self._call = call
        self._recovery = recovery
        self._budget = budget
        self._begin = begin
        self._attempt: Attempt | None = None
        self.record = call.decision.record

    def choose_again(self, excluded: frozenset[str]) -> Replica | None:
        """Choose a worker that is not excluded, by id."""
        recovery = self._recovery
        recovery.tried += excluded.difference(recovery.tried)
        replica = pick_apart(self._shared, self._call, recovery)
        if replica is not None:
            note_choice(self._shared, self._call, recovery, replica.worker)
        return replica

    def attempt(self, replica: Replica) -> Attempt:
        """Begin the next attempt."""
        attempt = self._attempt = self._begin(replica)
        return attempt

    def note_failure(self, replica: Replica, failure: AttemptFailed) -> None:
        assert self._attempt is not None
        note_loss(self._shared, self._call, self._recovery, self._attempt, failure)

    async def may_go_on(self) -> bool:
        """False if the request was in progress on two engines that died by themselves, and no other one explains it."""
        poison = self._shared.poison
        return poison is None or await self._recovery.may_go_on(poison)

    def may_retry(self) -> bool:
        """True if the budget pays one more attempt, and the request has one left."""
        return self.record.attempts < MAX_ATTEMPTS and self._budget.try_spend()


def note_loss(
    shared: Shared, call: ForwardRequest, recovery: Recovery, attempt: Attempt, failure: AttemptFailed
) -> None:
    """The answer broke off, or was not continued."""
    replica, sent = attempt.replica, attempt.lease.sent
    recovery.note(replica, failure)
    if isinstance(failure, Lost):
        recovery.losses.append((replica.worker, sent))
        if shared.poison is not None and call.request is not None:
            shared.poison.lost_begun(replica.worker, sent, call.operation.name, call.request, call.decision.size)

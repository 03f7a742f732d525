"""When a request waits for a worker, in which line, and what it takes at its turn."""

from __future__ import annotations

import asyncio

from tests.support.balance import worker_in
from tests.support.forwarding import Fleet
from tests.support.until import auntil
from vllama_pool.router.admission.tenant import ANYBODY
from vllama_pool.router.admission.worker_queue import ANY_WORKER
from vllama_pool.router.balance.lease import ABANDONED, Lease
from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.proxy.waiting_request import WaitingRequest
from vllama_pool.router.proxy.worker_turn import WorkerTurn


class Waiting:
    """A request of a fleet, and the workers that it takes."""

    def __init__(self, fleet: Fleet, *excluded: str) -> None:
        self.taken: list[str] = []
        self._queue = fleet.admission.worker_queue("m")
        self.request = WaitingRequest(fleet.shared, fleet.begin().call, lambda: excluded, self._begin)

    def _begin(self, replica: Replica) -> None:
        self.taken.append(replica.worker.id)

    async def start(self) -> asyncio.Task[None]:
        """Return the wait, once the queue has tried to give the request its turn."""
        turn = WorkerTurn(self.request.take, self.request.next_change, self.request.patience)
        task = asyncio.create_task(turn.wait_in(self._queue, ANYBODY, self.request.kind, 0.0))
        await auntil(lambda: self._queue.sought == 1)
        for _ in range(5):
            await asyncio.sleep(0)
        return task


def fill(fleet: Fleet, name: str) -> list[Lease]:
    worker = worker_in(fleet.pool, name)
    return [fleet.pool.lease(worker) for _ in range(9)]  # a tenth more than its slots


async def test_a_request_waits_while_its_workers_are_full_and_takes_the_first_room() -> None:
    fleet = Fleet(a=[], b=[])
    fill(fleet, "a")
    leases = fill(fleet, "b")
    waiting = Waiting(fleet)
    assert waiting.request.may_wait()
    task = await waiting.start()
    assert not task.done()
    leases[0].release(ABANDONED)
    await task
    assert waiting.taken == ["b"]


async def test_a_request_does_not_take_a_worker_that_it_must_not_get() -> None:
    fleet = Fleet(a=[], b=[])
    leases = fill(fleet, "b")
    waiting = Waiting(fleet, "a")
    task = await waiting.start()
    assert not task.done()
    leases[0].release(ABANDONED)
    await task
    assert waiting.taken == ["b"]


async def test_a_request_whose_healthy_workers_are_all_excluded_ends_its_wait_without_one() -> None:
    waiting = Waiting(Fleet(a=[]), "a")
    await (await waiting.start())
    assert waiting.taken == []


async def test_a_new_request_does_not_wait_for_a_worker_that_is_ill_and_has_room() -> None:
    fleet = Fleet(a=[])
    fleet.pool.mark_suspect("a")
    request = Waiting(fleet).request
    assert request.absent
    assert not request.may_wait()


async def test_requests_that_any_worker_may_answer_share_a_line() -> None:
    assert Waiting(Fleet(a=[], b=[])).request.kind is ANY_WORKER

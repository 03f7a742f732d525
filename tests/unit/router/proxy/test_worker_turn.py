"""The end of a wait for a worker: by a turn, by time, or because the client leaves."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.balance import Clock, pool_of
from tests.support.forwarding import StepClock, turns_of
from tests.support.until import auntil
from vllama_pool.router.admission.tenant import ANYBODY
from vllama_pool.router.admission.worker_queue import ANY_WORKER, QueueBounds, WorkerQueue
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.proxy.worker_turn import Taking, WorkerTurn


class Worker:
    """The result of each turn, as the test sets it."""

    def __init__(self, state: Taking) -> None:
        self.state = state
        self.turns = 0

    def take(self) -> Taking:
        self.turns += 1
        return self.state


def queue_of(wait: float | None = None, *, start: float | None = None) -> WorkerQueue:
    clock = Clock()
    return WorkerQueue(QueueBounds(5, wait, start), turns_of(pool_of(clock), StepClock(clock)), clock)


def turn_of(worker: Worker, patience: float = 3600.0) -> WorkerTurn:
    return WorkerTurn(worker.take, lambda: float("inf"), patience)


async def wait_in(queue: WorkerQueue, turn: WorkerTurn, waited: float = 0.0, *, absent: bool = False) -> None:
    async with asyncio.timeout(15):
        await turn.wait_in(queue, ANYBODY, ANY_WORKER, waited, absent=absent)


async def test_a_turn_that_finds_a_worker_ends_the_wait() -> None:
    queue, worker = queue_of(), Worker(Taking.FULL)
    waiting = asyncio.create_task(wait_in(queue, turn_of(worker)))
    await auntil(lambda: worker.turns > 0)
    assert not waiting.done()
    worker.state = Taking.TAKEN
    queue.look()
    await waiting
    assert queue.waiting == 0


async def test_the_longest_wait_ends_as_busy() -> None:
    queue = queue_of(0.01)
    with pytest.raises(ServerBusy):
        await wait_in(queue, turn_of(Worker(Taking.FULL)))
    assert (queue.waiting, queue.refused) == (0, 1)


async def test_time_that_was_waited_before_counts() -> None:
    with pytest.raises(ServerBusy):
        await wait_in(queue_of(3600.0), turn_of(Worker(Taking.FULL)), waited=3600.0)


async def test_a_client_that_leaves_gives_up_its_place_at_once() -> None:
    queue, worker = queue_of(), Worker(Taking.FULL)
    turn = turn_of(worker)
    waiting = asyncio.create_task(wait_in(queue, turn))
    await auntil(lambda: worker.turns > 0)
    for _ in range(2):
        turn.stop_waiting()
    assert queue.waiting == 0
    with pytest.raises(ServerBusy):
        await waiting


async def test_a_request_stays_while_the_model_has_no_worker_until_its_patience_ends() -> None:
    queue, worker = queue_of(), Worker(Taking.ABSENT)
    patient = asyncio.create_task(wait_in(queue, turn_of(worker)))
    await auntil(lambda: worker.turns > 0)
    assert not patient.done()
    worker.state = Taking.TAKEN
    queue.look()
    await patient
    await wait_in(queue, turn_of(Worker(Taking.ABSENT), patience=0.0))


async def test_an_entry_that_waits_for_a_first_worker_sets_how_long() -> None:
    with pytest.raises(ServerBusy) as caught:
        await wait_in(queue_of(start=0.01), turn_of(Worker(Taking.ABSENT), patience=0.0), absent=True)
    assert caught.value.retry_after == 5

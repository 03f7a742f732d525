"""Turns of requests that wait for workers: order among models, due times, and no lost wake-up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tests.support.balance import Clock
from tests.support.vacancies import Events, Turn, manual_turns
from vllama_pool.router.admission.tenant import ANYBODY, Tenant
from vllama_pool.router.admission.turns import Turns
from vllama_pool.router.admission.worker_queue import Place, QueueBounds, WorkerQueue
from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.router.errors import ServerBusy


@dataclass
class Shared:
    """Workers with free places, and queues before them."""

    free: dict[str, int]
    clock: Clock = field(default_factory=Clock)
    vacancies: Vacancies = field(default_factory=Vacancies)

    def __post_init__(self) -> None:
        self.events = Events(self.clock)
        self.turns: Turns = manual_turns(self.vacancies, self.events, self.clock)
        self.taken: list[tuple[str, str]] = []
        """Request and worker, in order."""

    def queue(self, length: int = 10_000) -> WorkerQueue:
        return WorkerQueue(QueueBounds(length), self.turns, self.clock)

    def turn(self, name: str, *workers: str) -> Turn:
        def take() -> bool:
            for worker in workers:
                if self.free[worker] > 0:
                    self.free[worker] -= 1
                    self.taken.append((name, worker))
                    return True
            return False

        return Turn(take)

    def release(self, worker: str, count: int = 1) -> None:
        """Free places, as leases do at their end."""
        self.free[worker] += count
        if self.vacancies.watched:
            self.vacancies.note()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.taken]


def test_as_many_requests_proceed_as_there_are_free_places() -> None:
    shared = Shared({"w": 0})
    queue = shared.queue()
    places = [queue.join(shared.turn(str(number), "w"), ANYBODY, 0) for number in range(5)]
    shared.events.run()
    shared.release("w", 2)
    shared.events.run()
    assert shared.names == ["0", "1"]
    for place in places:
        place.end()
    assert (queue.waiting, shared.vacancies.watched) == (0, False)


def test_events_of_one_pass_are_handled_together() -> None:
    shared = Shared({"w": 0})
    queue = shared.queue()
    for number in range(5):
        queue.join(shared.turn(str(number), "w"), ANYBODY, 0)
    for _ in range(3):
        shared.release("w")
    assert shared.events.run() == 1
    assert shared.names == ["0", "1", "2"]


def test_models_that_share_a_worker_take_turns_whatever_the_length_of_their_queues() -> None:
    shared = Shared({"w": 0})
    long, short = shared.queue(), shared.queue()
    for number in range(20):
        long.join(shared.turn(f"long {number}", "w"), ANYBODY, 0)
    shared.events.run()
    for number in range(3):
        short.join(shared.turn(f"short {number}", "w"), ANYBODY, 0)
    for _ in range(6):
        shared.release("w")
        shared.events.run()
    assert sorted(shared.names[:2]) == ["long 0", "short 0"]
    assert [name.split()[0] for name in shared.names].count("short") == 3


def test_a_place_that_one_model_cannot_use_goes_to_another() -> None:
    shared = Shared({"a": 0, "b": 0})
    first, second = shared.queue(), shared.queue()
    first.join(shared.turn("only a", "a"), ANYBODY, 0)
    second.join(shared.turn("b", "b"), ANYBODY, 0)
    shared.release("b")
    shared.events.run()
    assert shared.taken == [("b", "b")]


def test_requests_of_one_model_for_other_workers_do_not_block_each_other() -> None:
    shared = Shared({"small": 0, "large": 0})
    queue = shared.queue()
    queue.join(shared.turn("long prompt", "large"), ANYBODY, "large")
    queue.join(shared.turn("short prompt", "small", "large"), ANYBODY, "all")
    shared.release("small")
    shared.events.run()
    assert shared.taken == [("short prompt", "small")]


def test_tenants_get_turns_by_weight() -> None:
    shared = Shared({"w": 0})
    queue, blue, red = shared.queue(), Tenant("team", "blue", 3), Tenant("team", "red", 1)
    for _ in range(40):
        queue.join(shared.turn("red", "w"), red, 0)
        queue.join(shared.turn("blue", "w"), blue, 0)
    shared.release("w", 40)
    shared.events.run()
    assert shared.names.count("blue") == 30


def test_a_place_freed_before_the_queue_listened_is_found() -> None:
    shared = Shared({"w": 1})
    shared.queue().join(shared.turn("only", "w"), ANYBODY, 0)
    shared.events.run()
    assert shared.names == ["only"]


def test_a_due_time_without_an_event_gives_a_turn() -> None:
    shared = Shared({"w": 0})
    opens = shared.clock() + 5

    def take() -> bool:
        return shared.clock() >= opens

    turn = Turn(take, due=opens)
    shared.queue().join(turn, ANYBODY, 0)
    shared.events.run()
    shared.clock.advance(4.9)
    shared.events.run()
    assert not turn.taken
    shared.clock.advance(0.2)
    shared.events.run()
    assert turn.taken


def test_a_queue_beyond_its_length_refuses_with_ollamas_text() -> None:
    shared = Shared({"w": 0})
    queue = shared.queue(length=1)
    queue.join(shared.turn("first", "w"), ANYBODY, 0)
    with pytest.raises(ServerBusy) as caught:
        queue.join(shared.turn("second", "w"), ANYBODY, 0)
    assert caught.value.text == "server busy, please try again.  maximum pending requests exceeded"
    assert (caught.value.retry_after, queue.refused, queue.waiting) == (1, 1, 1)


def test_retry_after_follows_the_models_ended_requests() -> None:
    shared = Shared({"w": 0})
    queue = shared.queue(length=20)
    for number in range(20):
        queue.join(shared.turn(str(number), "w"), ANYBODY, 0)
    shared.clock.advance(2)
    queue.ended += 6
    assert queue.busy().retry_after == 7  # 21 requests at 3 per second
    assert queue.seconds_to_drain == pytest.approx(20 / 3)


@pytest.mark.parametrize("seed", range(200))
def test_no_wakeup_is_lost_whatever_the_order_of_events(seed: int) -> None:
    """After each pass of the event loop, nobody waits for a worker that has a free place, and each turn is in order."""
    rng = random.Random(seed)
    shared = Shared(dict.fromkeys("abc", 0))
    models = {"m": ("a", "b"), "n": ("b", "c"), "o": ("c",)}
    queues = {model: shared.queue(length=rng.choice([3, 50])) for model in models}
    waiting: dict[str, tuple[str, Turn, Place]] = {}
    asked: dict[str, int] = {}
    held: list[str] = []
    for step in range(300):
        action = rng.random()
        if action < 0.4:
            model = rng.choice(list(models))
            name, turn = f"{model}{step}", shared.turn(f"{model}{step}", *models[model])
            try:
                waiting[name] = model, turn, queues[model].join(turn, ANYBODY, 0)
                asked[name] = step
            except ServerBusy:
                assert queues[model].waiting == queues[model].bounds.length
        elif action < 0.55 and waiting:
            name = rng.choice(list(waiting))
            waiting.pop(name)[2].end()
        elif action < 0.85:
            worker = rng.choice("abc")
            if worker in held:
                held.remove(worker)
                shared.release(worker)
            elif rng.random() < 0.2:
                shared.release(worker)
        if rng.random() < 0.7:
            shared.events.run()
            for name, worker in shared.taken:
                if name in waiting:
                    model, turn, place = waiting.pop(name)
                    earlier = [
                        other for other, (its, _, _) in waiting.items() if its == model and asked[other] < asked[name]
                    ]
                    assert not [other for other in earlier if not waiting[other][1].taken], "out of order"
                    place.end()
                held.append(worker)
            shared.taken.clear()
            for model, turn, _ in waiting.values():
                assert not turn.taken
                assert not any(shared.free[worker] for worker in models[model]), f"step {step}: a lost wake-up"
        assert sum(queue.waiting for queue in queues.values()) == len(waiting)
    for _, _, place in waiting.values():
        place.end()
    assert not shared.vacancies.watched
    assert [queue.waiting for queue in queues.values()] == [0, 0, 0]

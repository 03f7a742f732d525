"""Slots, the queue behind them, and steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vllama_pool.workers.simulated.engine import Engine, Entry, Pace, Pause


@dataclass
class Counted:
    """A sequence that ends after so many tokens."""

    length: int
    prompt_tokens: int = 10
    count: int = 0
    times: list[float] = field(default_factory=list)

    def step(self, now: float) -> str:
        self.count += 1
        self.times.append(now)
        return "stop" if self.count >= self.length else ""


@dataclass
class Seen:
    """An observer that remembers."""

    steps: list[int] = field(default_factory=list)
    ends: list[tuple[Counted, str]] = field(default_factory=list)

    def stepped(self, tokens: int, interval: float) -> None:
        self.steps.append(tokens)

    def finished(self, entry: Entry, reason: str, now: float) -> None:
        assert isinstance(entry.sequence, Counted)
        self.ends.append((entry.sequence, reason))


def engine(slots: int, **pace: float) -> tuple[Engine, Seen]:
    seen = Seen()
    return Engine(Pace(slots=slots, tokens_per_second=10.0, **pace), seen), seen


def test_each_step_gives_every_running_sequence_one_token() -> None:
    under_test, seen = engine(4)
    sequences = [Counted(100) for _ in range(3)]
    for sequence in sequences:
        under_test.submit(sequence, 0.0)
    for step in range(1, 6):
        assert under_test.step(step * 0.1) == 3
        assert [sequence.count for sequence in sequences] == [step] * 3
    assert seen.steps == [3] * 5


def test_beyond_the_slots_they_wait_in_order() -> None:
    under_test, seen = engine(2)
    sequences = [Counted(length) for length in (3, 1, 1, 1)]
    for sequence in sequences:
        under_test.submit(sequence, 0.0)
    assert (len(under_test.running), len(under_test.waiting)) == (2, 2)
    for step in range(1, 4):
        under_test.step(float(step))
    assert [sequence.times for sequence in sequences] == [[1.0, 2.0, 3.0], [1.0], [2.0], [3.0]]
    assert [sequence for sequence, _ in seen.ends] == [sequences[1], sequences[2], sequences[0], sequences[3]]
    assert not under_test.running


def test_a_slot_that_an_abort_frees_goes_to_the_first_in_the_queue() -> None:
    under_test, seen = engine(1)
    first, second, third = Counted(5), Counted(5), Counted(5)
    entries = [under_test.submit(sequence, 0.0) for sequence in (first, second, third)]
    assert under_test.abort(entries[1], 0.0)
    assert under_test.abort(entries[0], 0.0)
    assert [entry.sequence for entry in under_test.running] == [third]
    assert not under_test.abort(entries[0], 0.0)
    assert seen.ends == []


def test_prefill_takes_its_time_after_the_slot_is_taken() -> None:
    under_test, _ = engine(1, ttft=0.5, prefill_tokens_per_second=100.0)
    first, second = Counted(1, prompt_tokens=50), Counted(1, prompt_tokens=0)
    entry = under_test.submit(first, 10.0)
    waiting = under_test.submit(second, 10.0)
    assert entry.ready == pytest.approx(11.0)
    assert under_test.step(10.9) == 0
    assert under_test.step(11.0) == 1
    assert (waiting.arrived, waiting.scheduled, waiting.ready) == (10.0, 11.0, 11.5)


def test_with_a_bound_on_the_total_steps_get_slower_when_it_is_met() -> None:
    pace = Pace(slots=100, tokens_per_second=10.0, total_tokens_per_second=100.0)
    assert pace.interval(1) == pytest.approx(0.1)
    assert pace.interval(10) == pytest.approx(0.1)
    assert pace.interval(50) == pytest.approx(0.5)
    assert pace.interval(50, slow=2.0) == pytest.approx(1.0)


def test_a_paused_engine_takes_requests_and_moves_nothing() -> None:
    under_test, _ = engine(1)
    under_test.suspend(Pause.ALL)
    sequence = Counted(1)
    under_test.submit(sequence, 0.0)
    assert under_test.step(1.0) == 0
    under_test.resume(2.0)
    assert under_test.step(3.0) == 1
    assert sequence.times == [3.0]


def test_an_engine_paused_for_new_requests_finishes_the_running_ones() -> None:
    under_test, _ = engine(2)
    running, waiting = Counted(2), Counted(2)
    under_test.submit(running, 0.0)
    under_test.suspend(Pause.NEW)
    under_test.submit(waiting, 0.0)
    for now in (1.0, 2.0, 3.0):
        under_test.step(now)
    assert (running.times, waiting.times, under_test.can_step) == ([1.0, 2.0], [], False)


def test_a_paused_engine_reports_the_waiting_requests_of_its_last_step() -> None:
    under_test, _ = engine(1)
    for _ in range(2):
        under_test.submit(Counted(1), 0.0)
    under_test.suspend(Pause.ALL)
    under_test.submit(Counted(1), 0.0)
    assert under_test.last_waiting == 1
    under_test.resume(1.0)
    assert under_test.last_waiting == 2


def test_running_sequences_fill_the_cache() -> None:
    under_test, _ = engine(2)
    for _ in range(3):
        under_test.submit(Counted(9, prompt_tokens=10), 0.0)
    under_test.step(1.0)
    assert under_test.tokens_held == 22
    assert len(under_test.clear()) == 3
    assert under_test.tokens_held == 0

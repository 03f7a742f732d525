"""Expiry times of /api/ps."""

import msgspec
import pytest

from tests.support.protocol import use_once
from vllama_pool.config.durations import FOREVER
from vllama_pool.router.protocol.ollama.expiry import MAX_MODELS, ExpiryTracker, ModelUses
from vllama_pool.router.protocol.ollama.keep_alive import KeepAlive

MINUTE = 60 * 10**9


@pytest.mark.rule(93)
def test_a_model_lives_for_its_keep_alive_after_the_last_request() -> None:
    expiry = ExpiryTracker(5 * MINUTE)
    assert not expiry.lives("v", 0)
    use_once(expiry, "v", None, 10 * MINUTE)
    assert expiry.lives("v", 15 * MINUTE - 1)
    assert not expiry.lives("v", 15 * MINUTE)
    use_once(expiry, "v", FOREVER, 0)
    assert expiry.lives("v", 10**6 * MINUTE)
    use_once(expiry, "v", 0, 0)
    assert not expiry.lives("v", 0)


def test_the_least_recently_used_models_are_forgotten() -> None:
    expiry = ExpiryTracker(MINUTE)
    use_once(expiry, "first", None, 0)
    for number in range(MAX_MODELS - 1):
        use_once(expiry, f"v{number}", None, 0)
    use_once(expiry, "first", None, 1)
    use_once(expiry, "one more", None, 1)
    assert expiry.lives("first", 2)
    assert not expiry.lives("v0", 2)


def test_the_number_of_models_is_bounded_and_a_running_one_is_never_forgotten() -> None:
    expiry = ExpiryTracker(MINUTE)
    running = expiry.begin("running", 2 * MINUTE, 0, 0)
    for number in range(3 * MAX_MODELS):
        use_once(expiry, f"v{number}", None, number)
    assert len(expiry.uses().last) <= MAX_MODELS
    running.end(9)
    assert expiry.expires("running", 9, 0) == 9 + 2 * MINUTE


def test_a_model_learnt_from_another_process_keeps_its_running_requests_here() -> None:
    one, other = ExpiryTracker(MINUTE), ExpiryTracker(MINUTE)
    running = one.begin("v", None, 0, 0)
    use_once(other, "v", 0, 1)
    one.learn([other.uses()])
    assert one.lives("v", 2)
    running.end(2)
    assert not one.lives("v", 2)


def test_a_model_lives_while_a_request_runs_and_then_for_its_keep_alive() -> None:
    expiry = ExpiryTracker(MINUTE)
    first, second = expiry.begin("v", 0, 0, 0), expiry.begin("v", 0, 0, 0)
    first.end(1)
    first.end(2)
    assert expiry.lives("v", 10 * MINUTE)
    second.end(3)
    assert not expiry.lives("v", 3)
    assert expiry.uses().running == ()


@pytest.mark.rule(93)
@pytest.mark.parametrize("lifetime", [FOREVER, 20 * MINUTE])
def test_a_request_without_keep_alive_keeps_the_last_one(lifetime: int) -> None:
    expiry = ExpiryTracker(5 * MINUTE)
    use_once(expiry, "v", lifetime, 0)
    use_once(expiry, "v", None, MINUTE)
    expiry.begin("v", None, 2 * MINUTE, 2 * MINUTE).end(3 * MINUTE)
    assert expiry.expires("v", 3 * MINUTE, 0) == 3 * MINUTE + lifetime


@pytest.mark.rule(93)
@pytest.mark.parametrize("lifetime", [0, MINUTE])
def test_a_model_that_has_lapsed_gets_the_default_again(lifetime: int) -> None:
    expiry = ExpiryTracker(5 * MINUTE)
    use_once(expiry, "v", FOREVER, 0)
    use_once(expiry, "v", lifetime, 1)
    expiry.begin("v", None, 2 * MINUTE, 2 * MINUTE).end(3 * MINUTE)
    assert expiry.expires("v", 3 * MINUTE, 0) == 8 * MINUTE


@pytest.mark.rule(93)
def test_the_keep_alive_of_the_request_that_began_last_applies() -> None:
    expiry = ExpiryTracker(5 * MINUTE)
    first = expiry.begin("v", 20 * MINUTE, 0, 0)
    expiry.begin("v", MINUTE, 1, 1).end(2)
    first.end(3)
    assert expiry.expires("v", 3, 0) == 3 + MINUTE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("uses", "left"),
    [
        ([(0, FOREVER, 1), (1, None, 2)], FOREVER),
        ([(0, FOREVER, 1), (1, 2 * MINUTE, 2), (0, None, 3)], 2 * MINUTE),
        ([(0, FOREVER, 1), (1, 0, 2), (0, None, 3)], 5 * MINUTE),
        ([(0, 1, 1), (1, None, 3)], 5 * MINUTE),
        ([(1, 1, 1), (0, FOREVER, 3), (1, None, 4)], FOREVER),
    ],
    ids=["kept", "changed elsewhere", "unloaded elsewhere", "lapsed elsewhere", "changed after it lapsed here"],
)
def test_a_keep_alive_given_to_another_process_is_kept(
    uses: list[tuple[int, int | None, int]], left: int, order: tuple[int, int]
) -> None:
    processes = [ExpiryTracker(5 * MINUTE), ExpiryTracker(5 * MINUTE)]
    for process, keep_alive, at in uses:
        use_once(processes[order[process]], "v", keep_alive, at)
    reports = [process.uses() for process in processes]
    for process in processes:
        process.learn(reports)
        process.learn(reports)
    end = uses[-1][2]
    assert [process.expires("v", end, 0) for process in processes] == [end + left, end + left]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_latest_use_in_any_process_counts(order: tuple[int, int]) -> None:
    processes = [ExpiryTracker(5 * MINUTE), ExpiryTracker(5 * MINUTE)]
    use_once(processes[order[0]], "v", None, at=1)
    use_once(processes[order[1]], "v", MINUTE, at=2)
    uses = [process.uses() for process in processes]
    for process in processes:
        process.learn(uses)
    assert [process.expires("v", 3, 0) for process in processes] == [2 + MINUTE, 2 + MINUTE]


def test_a_use_learnt_from_another_process_is_kept_when_that_process_is_gone() -> None:
    one, other = ExpiryTracker(MINUTE), ExpiryTracker(MINUTE)
    running = other.begin("v", None, 0, 0)
    one.learn([other.uses()])
    assert one.lives("v", 10 * MINUTE)
    running.end(0)
    one.learn([other.uses()])
    one.learn([])
    assert one.lives("v", 0)
    assert not one.lives("v", MINUTE)


def test_uses_survive_their_encoding() -> None:
    expiry = ExpiryTracker(MINUTE)
    use_once(expiry, "v", KeepAlive.parse(-1), 2**62)
    running = expiry.begin("w", None, 0, 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(expiry.uses()), type=ModelUses) == expiry.uses()
    running.end(1)


def test_all_processes_show_the_time_of_the_request() -> None:
    """The difference between the clocks is not the same in two readings."""
    one, other = ExpiryTracker(MINUTE), ExpiryTracker(MINUTE)
    one.begin("v", None, at=100, now=5000).end(200)
    other.learn([one.uses()])
    assert one.expires("v", 300, 4899) == other.expires("v", 400, 4903) == 200 + MINUTE + 4900

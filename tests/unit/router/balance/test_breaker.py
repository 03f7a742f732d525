"""Circuit breakers on a time line: opening, half-open probes, closing."""

from vllama_pool.router.balance.breaker import CALM, Breaker, BreakerState


def breaker() -> Breaker:
    return Breaker(threshold=5, hold=5.0)


def trip(one: Breaker, now: float) -> None:
    for _ in range(5):
        one.record_failure(now, now)


def test_a_breaker_opens_at_the_fifth_consecutive_failure() -> None:
    one = breaker()
    for second in range(4):
        one.record_failure(second, second)
    assert one.allows(4)
    one.record_failure(4, 4)
    assert not one.allows(4)
    assert one.state(4) is BreakerState.OPEN


def test_a_success_resets_the_breakers_count_of_failures() -> None:
    one = breaker()
    for second in range(4):
        one.record_failure(second, second)
    one.record_success(4)
    for second in range(5, 9):
        one.record_failure(second, second)
    assert one.state(9) is BreakerState.CLOSED


def test_a_half_open_breaker_admits_one_probe_and_its_success_closes_it() -> None:
    one = breaker()
    trip(one, 0)
    assert not one.allows(4.9)
    assert one.allows(5.0)
    assert one.state(5.0) is BreakerState.HALF_OPEN
    assert one.acquire_probe(5.0)
    assert not one.allows(5.1)
    assert not one.acquire_probe(5.1)
    assert one.record_success(5.0)
    assert one.allows(5.2)
    assert one.state(5.2) is BreakerState.CLOSED


def test_each_failed_probe_opens_the_breaker_for_longer_up_to_a_minute() -> None:
    one = breaker()
    now = 0.0
    trip(one, now)
    holds = []
    for _ in range(15):
        opened = now
        while not one.allows(now):
            now += 0.5
        holds.append(now - opened)
        one.acquire_probe(now)
        one.record_failure(now, now)
    assert holds[:4] == [5.0, 10.0, 15.0, 20.0]
    assert holds[11:] == [60.0] * 4


def test_a_minute_of_calm_resets_the_breakers_hold_time_and_a_success_alone_does_not() -> None:
    one = breaker()
    trip(one, 0)
    one.acquire_probe(5)
    one.record_success(5)
    trip(one, 6)
    assert not one.allows(15.9)
    assert one.allows(16)
    one.acquire_probe(16)
    one.record_success(16)
    trip(one, 16 + CALM + 1)
    assert one.allows(16 + CALM + 6)


def test_a_worker_that_flaps_is_held_longer_each_time() -> None:
    """It is up and down for two seconds each; every probe that meets it up succeeds."""
    one = Breaker(threshold=1, hold=3.0)
    in_rotation = 0
    for tenth in range(1200):
        now = tenth / 10
        if not one.allows(now):
            continue
        one.acquire_probe(now)
        in_rotation += 1
        if now % 4 < 2:
            one.record_success(now)
        else:
            one.record_failure(now, now)
    assert in_rotation < 1200 * 0.1


def test_a_released_probe_lets_the_next_request_probe() -> None:
    one = breaker()
    trip(one, 0)
    one.acquire_probe(5)
    one.release_probe()
    assert one.allows(5.1)


def test_results_of_requests_sent_before_the_opening_are_ignored() -> None:
    one = breaker()
    trip(one, 10)
    one.record_success(9)
    assert one.state(11) is BreakerState.OPEN
    one.acquire_probe(15)
    one.record_failure(9, 15.5)
    one.record_success(15)
    assert one.state(16) is BreakerState.CLOSED


def test_close_once_closes_a_breaker_after_its_first_opening_only() -> None:
    one = breaker()
    assert not one.close_once(), "closed already"
    trip(one, 0)
    assert one.close_once()
    assert one.state(0) is BreakerState.CLOSED
    trip(one, 1)
    assert not one.close_once()
    one.record_success(11)
    trip(one, 12)
    assert not one.close_once()
    one.record_success(40)
    trip(one, 12 + 15 + CALM + 1)
    assert one.close_once()


def test_close_once_does_not_close_a_firm_opening() -> None:
    one = Breaker(threshold=1, hold=3.0)
    one.record_failure(0, 0, firm=True)
    assert not one.close_once()
    one.acquire_probe(3)
    assert one.record_success(3)


def test_after_close_once_the_next_opening_lasts_longer() -> None:
    one = breaker()
    trip(one, 0)
    one.close_once()
    trip(one, 1)
    assert not one.allows(10.9)
    assert one.allows(11)


def test_reset_closes_a_breaker_and_ignores_results_of_earlier_requests() -> None:
    one = breaker()
    trip(one, 0)
    one.reset(1)
    assert one.allows(1)
    for _ in range(5):
        one.record_failure(0.5, 2)
    assert one.allows(2)


def test_the_repr_shows_failures_or_the_end_of_the_hold() -> None:
    one = breaker()
    one.record_failure(0, 0)
    assert repr(one) == "<Breaker closed, 1 failures>"
    trip(one, 1)
    one.acquire_probe(6)
    assert repr(one) == "<Breaker open until 6.0, 1 openings, probing>"

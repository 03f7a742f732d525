"""Measuring a worker's speed from reports and responses; relative speeds."""

import pytest

from vllama_pool.router.balance.pace import Pace
from vllama_pool.router.balance.speed import MAX_SPEED, MIN_SPEED, RATE_LIFETIME, Peers, Rate


def test_only_reports_of_a_full_worker_set_its_rate() -> None:
    rate = Rate()
    rate.record_report(100, full=False, elapsed=1, now=1)
    assert rate.value(1) is None
    rate.record_report(400, full=True, elapsed=1, now=2)
    assert rate.value(2) == 400


def test_reported_rates_are_smoothed() -> None:
    rate = Rate()
    rate.record_report(400, full=True, elapsed=1, now=1)
    rate.record_report(800, full=True, elapsed=1, now=2)
    after_one = rate.value(2)
    assert after_one is not None
    assert after_one == 600, "the mean, at first"
    for second in range(3, 40):
        rate.record_report(800, full=True, elapsed=1, now=second)
    assert rate.value(40) == pytest.approx(800, rel=0.01)
    rate.record_report(400, full=True, elapsed=1, now=40)
    assert rate.value(40) == pytest.approx(728, rel=0.01)


def test_a_higher_rate_of_a_half_empty_worker_replaces_its_rate() -> None:
    rate = Rate()
    rate.record_report(40, full=True, elapsed=1, now=1)
    rate.record_report(300, full=False, elapsed=1, now=2)
    assert rate.value(2) == 300


def test_an_unconfirmed_rate_is_forgotten() -> None:
    rate = Rate()
    rate.record_report(400, full=True, elapsed=1, now=1)
    assert rate.value(1 + RATE_LIFETIME - 1) == 400
    assert rate.value(1 + RATE_LIFETIME) is None


def test_responses_give_the_workers_rate_by_littles_law() -> None:
    """Eight streams of 50 tokens/s, with responses of very different lengths."""
    rate = Rate()
    now = 0.0
    for tokens in (10, 500, 40, 1000, 25, 250) * 5:
        now += 0.4
        rate.record_response(tokens, seconds=tokens / 50, load=8, now=now)
    assert rate.value(now) == pytest.approx(400)


def test_responses_are_ignored_after_a_report() -> None:
    rate = Rate()
    rate.record_report(400, full=True, elapsed=1, now=1)
    rate.record_response(1000, seconds=1, load=8, now=2)
    assert rate.value(2) == 400


def relative_speeds(rates: list[Rate], declared: list[float], now: float) -> list[float]:
    """The speeds of one model's workers."""
    peers = Peers()
    for number, rate in enumerate(rates):
        peers.join(str(number), rate, Pace())
    return [peers.speed(rate, prior, now) for rate, prior in zip(rates, declared, strict=True)]


def test_speeds_are_relative_to_the_median_and_bounded() -> None:
    rates = [Rate() for _ in range(5)]
    for rate, tokens in zip(rates, (1, 200, 400, 800, 40_000), strict=True):
        rate.record_report(tokens, full=True, elapsed=1000, now=1)
    assert relative_speeds(rates, [1.0] * 5, 1) == [MIN_SPEED, 0.5, 1.0, 2.0, MAX_SPEED]


def test_a_measured_speed_counts_more_as_its_evidence_grows() -> None:
    """One second of 3 : 1 between equal workers must not send the whole queue to one of them."""
    rates = [Rate(), Rate()]
    speeds = []
    for second in range(20):
        for rate, tokens in zip(rates, (600, 200), strict=True):
            rate.record_report(tokens, full=True, elapsed=1, now=second)
        speeds.append(relative_speeds(rates, [1.0, 1.0], second))
    assert speeds[0] == pytest.approx([1.09, 0.91], abs=0.01)
    assert speeds[4] == pytest.approx([1.32, 0.68], abs=0.01)
    assert speeds[19] == pytest.approx([1.49, 0.51], abs=0.01)


def test_an_unmeasured_worker_has_its_declared_speed() -> None:
    measured = Rate()
    measured.record_report(400, full=True, elapsed=1000, now=1)
    assert relative_speeds([measured, Rate(), Rate()], [3.0, 1.0, 2.0], 1) == [1.0, 1.0, 2.0]
    assert relative_speeds([Rate(), Rate()], [1.0, 0.5], 1) == [1.0, 0.5]
    assert relative_speeds([], [], 1) == []

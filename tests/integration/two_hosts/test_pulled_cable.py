"""A pulled network cable delays requests by the connect timeout at most."""

from __future__ import annotations

import time

from tests.support.fleet.two_hosts import BOTH, PATIENCE, SLOW, TWO_HOSTS, Figures, Site
from tests.support.until import until

pytestmark = TWO_HOSTS

CONNECT_TIMEOUT = 1.0
BUSY = 30.0
"""Seconds that a busy machine may add. Without a connect timeout, the kernel tries for minutes, and without a look at
the worker's health, a stream waits for two."""
LONG = 300
"""Tokens of an answer of 15 s: it has not ended when the cable is pulled."""


def test_a_pulled_cable_delays_a_request_by_the_connect_timeout_at_most(site: Site, record_property: Figures) -> None:
    with site.workers("roamer", *SLOW, hosts="bc"):
        started: list[str] = []
        long = {"options": {"num_predict": LONG}}
        warm = [site.chat("roamer", f"warm-{number}", started, **long) for number in range(BOTH)]
        until(lambda: len(started) == BOTH, PATIENCE, "both to be answering")
        site.b.pull_cable()
        pulled = time.monotonic()
        try:
            fresh = [site.chat("roamer", f"fresh-{number}", options={"num_predict": 5}) for number in range(8)]
            answers = [future.result(PATIENCE) for future in fresh]
            assert all(answer.whole for answer in answers), [answer.parts[-1] for answer in answers]
            slowest = max(answer.first for answer in answers)
            record_property("figure", f"first line after the cable was pulled: at most {slowest:.2f} s, of 8 requests")
            broken = [answer for answer in (future.result(PATIENCE) for future in warm) if not answer.whole]
            assert broken
            longest = max(answer.ended for answer in broken) - pulled
            record_property("figure", f"{len(broken)} of {BOTH} streams ended with an error line after {longest:.1f} s")
            assert longest < 6 + BUSY
            assert all(answer.status == 200 and answer.error for answer in broken)
            until(lambda: site.states()["b"] == "down", PATIENCE, "the worker to be down")
            assert slowest < CONNECT_TIMEOUT + BUSY
        finally:
            site.b.plug_in()
        plugged = time.monotonic()

        def answered_by_b() -> bool:
            request_id = f"back-{time.monotonic_ns()}"
            assert site.chat("roamer", request_id, options={"num_predict": 2}).result(PATIENCE).whole
            return site.worker_of(request_id) == "b"

        until(lambda: site.states()["b"] == "ready", PATIENCE, "the worker to be back")
        record_property("figure", f"back {time.monotonic() - plugged:.1f} s after the cable was plugged in")
        until(answered_by_b, PATIENCE, "the worker to get requests again")
        until(lambda: set(site.in_flight().values()) == {0}, PATIENCE, "all to be at rest")


def test_an_idle_connection_over_a_pulled_cable_delays_a_request_no_longer(
    site: Site, record_property: Figures
) -> None:
    """No host is there to refuse a request on a kept connection."""
    with site.workers("idle", hosts="bc"):
        burst = [site.chat("idle", options={"num_predict": 5}) for _ in range(16)]
        assert all(future.result(PATIENCE).whole for future in burst)
        site.b.pull_cable()
        try:
            answers = [future.result(PATIENCE) for future in [site.chat("idle") for _ in range(8)]]
        finally:
            site.b.plug_in()
        assert all(answer.whole for answer in answers)
        slowest = max(answer.first for answer in answers)
        record_property("figure", f"first line over kept connections: at most {slowest:.2f} s, of 8 requests")
        assert slowest < CONNECT_TIMEOUT + BUSY

"""Routers never contact a worker whose record is forged or replayed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.support.fleet.forged_records import Forger, Trap
from tests.support.fleet.two_hosts import PATIENCE, SECRET, TWO_HOSTS, Site
from tests.support.until import until

pytestmark = TWO_HOSTS

FORGED = {"wrong-secret", "unsigned", "other-fleet", "moved", "outside", "no-address"}


def moments() -> Iterator[None]:
    """Yield for three seconds, ten times at least and 300 times at most: polls and probes of the router in between."""
    end = time.monotonic() + 3
    for number in range(300):
        if number >= 10 and time.monotonic() >= end:
            return
        yield


def test_workers_with_untrusted_records_are_never_contacted(site: Site, traps: tuple[Trap, Trap]) -> None:
    inside, outside = traps
    for trap in traps:
        trap.visit(site.front)
        assert trap.visitors() == 1
    with site.workers("prey"):
        forged = Forger(site.front.call(site.redis))
        before = site.refused_records()
        other, ours = b"what-somebody-else-made-up-as-a-secret", SECRET.encode()
        site.front.call(forged.write, "wrong-secret", inside.url, secret=other)
        site.front.call(forged.write, "unsigned", inside.url, secret=None)
        site.front.call(forged.write, "other-fleet", inside.url, secret=ours, fleet="another")
        site.front.call(forged.write, "moved", inside.url, secret=ours, written_for="somebody-else")
        site.front.call(forged.write, "outside", outside.url, secret=ours)
        site.front.call(forged.write, "no-address", "http://metadata.invalid:80", secret=ours)
        until(lambda: site.refused_records() >= before + 5, PATIENCE, "five records to be refused")
        for _ in moments():
            site.front.call(forged.beat)
            assert site.chat("prey").result(PATIENCE).whole
        assert [trap.visitors() for trap in traps] == [0, 0]
        assert not FORGED & site.states().keys()
        until(lambda: site.states()["b"] == "ready", PATIENCE, "the true worker to be ready")
        site.front.call(forged.clean_up)


def test_a_replayed_record_of_an_earlier_start_is_ignored(site: Site, traps: tuple[Trap, Trap]) -> None:
    """An attacker writes a record that the worker has signed at an earlier start."""
    trap = traps[0]
    with site.workers("steady"):
        forged = Forger(site.front.call(site.redis))
        for _ in moments():
            site.front.call(forged.write, "b", trap.url, secret=SECRET.encode(), model="steady")
            assert site.chat("steady").result(PATIENCE).whole
        assert trap.visitors() == 0
        until(lambda: site.states().get("b") == "ready", PATIENCE, "the worker to have its place again")
        urls = {worker["id"]: worker["url"] for worker in site.get("/admin/workers").json()["workers"]}
        assert urls["b"] == f"http://{site.b.address}:8100"

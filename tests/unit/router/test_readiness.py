"""The readiness of a router process."""

from vllama_pool.router.readiness import DRAINING, Readiness


def test_a_process_that_drains_says_so_until_it_no_longer_does() -> None:
    readiness = Readiness()
    assert readiness.draining == ""
    readiness.drain()
    readiness.drain()
    assert readiness.draining == DRAINING
    readiness.undrain()
    assert readiness.draining == ""


def test_a_fleet_that_was_seen_once_stays_seen() -> None:
    readiness = Readiness()
    assert not readiness.has_seen_fleet(False)
    assert readiness.has_seen_fleet(True)
    assert readiness.has_seen_fleet(False)

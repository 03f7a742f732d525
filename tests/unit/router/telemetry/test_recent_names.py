"""Names of models in use."""

from __future__ import annotations

from tests.support.balance import Clock
from vllama_pool.router.telemetry.recent_names import MAX_NAMES, RECENT, RecentNames


def test_a_name_is_in_use_while_a_request_runs_and_for_some_minutes_after() -> None:
    clock = Clock()
    names = RecentNames(clock)
    names.begin("a")
    names.begin("a")
    names.end("a")
    clock.advance(10 * RECENT)
    assert names.in_use().names == ("a",)
    names.end("a")
    clock.advance(RECENT)
    assert names.in_use().names == ("a",)
    clock.advance(1)
    assert names.in_use().names == ()


def test_the_least_recently_used_names_are_forgotten_first() -> None:
    names = RecentNames(Clock())
    names.begin("running")
    for number in range(MAX_NAMES + 10):
        names.begin(f"m{number}")
        names.end(f"m{number}")
        names.begin("m0")
        names.end("m0")
    in_use = names.in_use().names
    assert len(in_use) == MAX_NAMES + 1
    assert {"running", "m0", f"m{MAX_NAMES + 9}"} < set(in_use)
    assert "m1" not in in_use

"""Names of models in use."""

from __future__ import annotations

from vllama_pool.router.telemetry.recent_names import MAX_NAMES, RECENT, RecentNames


class Clock:
    now = 10**12

    def __call__(self) -> int:
        return self.now


def test_a_name_is_in_use_for_some_minutes_after_a_request() -> None:
    clock = Clock()
    names = RecentNames(clock)
    names.note("a", clock.now)
    clock.now += RECENT
    assert names.in_use().names == ("a",)
    names.note("b", clock.now)
    clock.now += 1
    assert names.in_use().names == ("b",)


def test_models_with_a_request_in_flight_are_in_use() -> None:
    clock = Clock()
    names = RecentNames(clock)
    names.note("a", clock.now - 2 * RECENT)
    names.note("b", clock.now)
    assert names.in_use(("a", "b")).names == ("a", "b")


def test_the_least_recently_used_names_are_forgotten_first() -> None:
    clock = Clock()
    names = RecentNames(clock)
    for number in range(MAX_NAMES + 10):
        clock.now += 1
        names.note(f"m{number}", clock.now)
        names.note("m0", clock.now)
    names.trim()
    in_use = names.in_use().names
    assert len(in_use) == MAX_NAMES
    assert {"m0", f"m{MAX_NAMES + 9}"} < set(in_use)
    assert "m1" not in in_use

"""When a child is started again."""

from __future__ import annotations

from vllama_pool.router.supervisor.child import Backoff

BACKOFF = Backoff(first=0.5, longest=30.0, settled=60.0)


def test_pauses_double_and_are_bounded() -> None:
    assert [BACKOFF.pause(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert BACKOFF.pause(10_000) == 30.0


def test_failures_in_a_row_are_counted_until_a_child_has_lived_long() -> None:
    assert BACKOFF.failures(0, lived=1.0) == 1
    assert BACKOFF.failures(3, lived=59.0) == 4
    assert BACKOFF.failures(3, lived=60.0) == 1

"""Back-off between restarts of a child."""

from __future__ import annotations

from vllama_pool.router.supervisor.child import Backoff

BACKOFF = Backoff(first=0.5, longest=30.0, settled=60.0)


def test_restart_pauses_double_up_to_a_limit() -> None:
    assert [BACKOFF.pause(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert BACKOFF.pause(10_000) == 30.0


def test_consecutive_failures_are_reset_after_a_long_life() -> None:
    assert BACKOFF.failures(0, lived=1.0) == 1
    assert BACKOFF.failures(3, lived=59.0) == 4
    assert BACKOFF.failures(3, lived=60.0) == 1

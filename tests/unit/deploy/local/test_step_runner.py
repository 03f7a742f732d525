"""Steps of the set-up run once, again when their inputs change, and never count as done when interrupted."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.step_runner import Failed, Step, cause, ensure, exclusively, run


def step(folder: Path, work: Callable[[bool], None], salt: str = "", needs_free: int = 0) -> Step:
    lock = folder / "lock.txt"
    if not lock.exists():
        lock.write_text("a==1")
    return Step("a thing", folder / "made" / ".stamp", (lock,), salt, work, needs_free)


def test_a_step_runs_once_and_again_when_its_lock_or_salt_changes(tmp_path: Path) -> None:
    calls: list[bool] = []
    thing = step(tmp_path, calls.append)
    assert ensure(thing)
    assert not ensure(thing)
    (tmp_path / "lock.txt").write_text("a==2")
    assert ensure(thing)
    assert ensure(step(tmp_path, calls.append, salt="3.13"))
    assert calls == [False, True, True]


def test_an_interrupted_step_starts_from_scratch(tmp_path: Path) -> None:
    calls: list[bool] = []
    ensure(step(tmp_path, calls.append))
    (tmp_path / "lock.txt").write_text("a==2")

    def cut_off(update: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(step(tmp_path, cut_off))
    ensure(step(tmp_path, calls.append))
    assert calls == [False, False]


def test_a_full_disk_is_reported_before_a_step_starts(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="free some space"):
        ensure(step(tmp_path, lambda update: pytest.fail("worked"), needs_free=10**18))


def test_a_failed_command_is_reported_in_one_line_with_its_cause() -> None:
    program = "import sys; print('Collecting'); sys.exit('error: something odd')"
    with pytest.raises(Failed) as caught:
        run("installing it", [sys.executable, "-c", program])
    assert str(caught.value) == "installing it failed: error: something odd"


def test_a_missing_command_is_reported_in_one_line() -> None:
    with pytest.raises(Failed, match="cannot run /no/such"):
        run("installing it", ["/no/such"])


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("error: Request failed\n  cause: dns error", "no network"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("  cause: Hash mismatch for `torch`", "locked hash"),
        ("hint: no wheels with a matching Python ABI tag (e.g., `cp312`)", "PYTHON=python3.11"),
        ("", "it printed nothing"),
    ],
)
def test_the_likely_cause_of_a_failure_is_named(output: str, advice: str) -> None:
    assert advice in cause(output.splitlines())


def _hold(lock: Path, order: multiprocessing.SimpleQueue[str]) -> None:
    with exclusively(lock):
        order.put("second")


def test_a_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    order: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    with exclusively(tmp_path / "lock"):
        other = context.Process(target=_hold, args=(tmp_path / "lock", order))
        other.start()
        other.join(1.0)
        assert other.is_alive()
        order.put("first")
    other.join(20)
    assert [order.get(), order.get()] == ["first", "second"]

"""Steps of the set-up run once, again when their inputs change, and never count as done when interrupted."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.step_runner import SetupError, Step, likely_cause, run_command, run_step, setup_lock


def step(folder: Path, work: Callable[[bool], None], salt: str = "", min_free_bytes: int = 0) -> Step:
    lock = folder / "lock.txt"
    if not lock.exists():
        lock.write_text("a==1")
    return Step("a thing", folder / "made" / ".stamp", (lock,), salt, work, min_free_bytes)


def test_a_step_runs_once_and_again_when_its_lock_or_salt_changes(tmp_path: Path) -> None:
    calls: list[bool] = []
    thing = step(tmp_path, calls.append)
    assert run_step(thing)
    assert not run_step(thing)
    (tmp_path / "lock.txt").write_text("a==2")
    assert run_step(thing)
    assert run_step(step(tmp_path, calls.append, salt="3.13"))
    assert calls == [False, True, True]


def test_an_interrupted_step_starts_from_scratch(tmp_path: Path) -> None:
    calls: list[bool] = []
    run_step(step(tmp_path, calls.append))
    (tmp_path / "lock.txt").write_text("a==2")

    def cut_off(update: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(step(tmp_path, cut_off))
    run_step(step(tmp_path, calls.append))
    assert calls == [False, False]


def test_a_full_disk_is_reported_before_a_step_starts(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="free some space"):
        run_step(step(tmp_path, lambda update: pytest.fail("worked"), min_free_bytes=10**18))


def test_a_failed_command_is_reported_in_one_line_with_its_cause() -> None:
    program = "import sys; print('Collecting'); sys.exit('error: something odd')"
    with pytest.raises(SetupError) as caught:
        run_command("installing it", [sys.executable, "-c", program])
    assert str(caught.value) == "installing it failed: error: something odd"


def test_a_missing_command_is_reported_in_one_line() -> None:
    with pytest.raises(SetupError, match="cannot run /no/such"):
        run_command("installing it", ["/no/such"])


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
    assert advice in likely_cause(output.splitlines())


def _hold(lock: Path, order: multiprocessing.SimpleQueue[str]) -> None:
    with setup_lock(lock):
        order.put("second")


def test_a_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    order: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    with setup_lock(tmp_path / "lock"):
        other = context.Process(target=_hold, args=(tmp_path / "lock", order))
        other.start()
        other.join(1.0)
        assert other.is_alive()
        order.put("first")
    other.join(20)
    assert [order.get(), order.get()] == ["first", "second"]

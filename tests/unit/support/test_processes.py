"""A guard ends what a killed test process has started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.support.processes import GroupGuard, is_alive, runs, tree, words_of
from tests.support.until import until

DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
from tests.support.processes import GroupGuard
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
guard = GroupGuard(child.pid)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[str]]:
    """A process that ignores SIGTERM, in a group of its own."""
    command = [sys.executable, "-c", DEAF]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_group_of_a_killed_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert is_alive(child)
        parent.kill()
    until(lambda: not is_alive(child), 20, "the child is gone")


def test_a_released_guard_kills_nothing(deaf: subprocess.Popen[str]) -> None:
    guard = GroupGuard(deaf.pid)
    guard.release()
    guard.release()
    assert deaf.poll() is None


def test_a_process_that_has_ended_has_no_words_and_no_descendants() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "marked"], stdin=subprocess.PIPE
    ) as parent:
        process = psutil.Process(parent.pid)
        assert (runs(process, "marked"), words_of(process)[-1], tree(process)) == (True, "marked", [])
    assert (runs(process, "marked"), words_of(process), tree(process)) == (False, [], [])

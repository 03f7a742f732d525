"""A terminal that is gone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.support.until import until

PROGRAM = """
import os, signal, sys
from vllama_pool.router.supervisor.terminal import hang_up_check
signal.signal(signal.SIGHUP, signal.SIG_IGN)
hung_up = hang_up_check()
out = os.fdopen(int(sys.argv[1]), "w", buffering=1)
print(hung_up(), file=out)
try:
    os.read(0, 1)
except OSError:
    pass  # EIO
print(hung_up(), file=out)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="terminals of Linux")
def test_the_end_of_the_terminal_is_told_from_an_operators_signal() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, str(writing)])
    os.close(writing)
    with os.fdopen(reading) as answers:
        assert answers.readline() == "False\n"
        os.close(terminal)
        assert answers.readline() == "True\n"
    until(lambda: os.waitpid(child, os.WNOHANG)[0] == child, 10)


def test_without_a_terminal_a_signal_is_an_operators() -> None:
    code = "from vllama_pool.router.supervisor.terminal import hang_up_check; print(hang_up_check()())"
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from tests.support.processes import is_alive
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")

PARENT = textwrap.dedent(
    """
    import signal, subprocess, sys
    from vllama_pool.workers.process.lifeline import die_with_parent
    child = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE,
        preexec_fn=die_with_parent(signal.Signals[sys.argv[2]]),
    )
    child.stdout.readline()
    print(child.pid, flush=True)
    child.wait()
    """
)
PATIENT = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT


def start(child: str, sig: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child, sig], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


@pytest.mark.parametrize(("child", "sig"), [(PATIENT, "SIGTERM"), (STUBBORN, "SIGKILL")])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent(child: str, sig: str, end: signal.Signals) -> None:
    parent, grandchild = start(child, sig)
    assert is_alive(grandchild)
    parent.send_signal(end)
    parent.communicate(timeout=60)
    until(lambda: not is_alive(grandchild), what="the child is gone")


def test_a_child_whose_parent_died_before_the_prctl_exits() -> None:
    tie = die_with_parent()  # records this process, but runs in a child of another one
    pid = os.fork()
    if pid == 0:
        middle = os.fork()
        if middle == 0:
            tie()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

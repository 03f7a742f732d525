"""The start of the command."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

INTERRUPTED = """
import importlib.abc, os, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
        return None

sys.meta_path.insert(0, Interrupting())
sys.argv = ["vllama", "worker"]
from vllama_pool.router.__main__ import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("module", ["click", "vllama_pool.workers.agent.agent"])
def test_ctrl_c_during_import_ends_the_command_silently(module: str) -> None:
    program = INTERRUPTED.format(module=module)
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "")


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "router", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("vllama ")

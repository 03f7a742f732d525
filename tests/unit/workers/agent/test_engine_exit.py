import signal

import pytest

from vllama_pool.workers.agent.engine_exit import engine_exit
from vllama_pool.workers.process.server_process import ExitStatus


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (-signal.SIGSEGV, "SIGSEGV"),
        (-signal.SIGABRT, "SIGABRT"),
        (1, "exit code 1"),
        (128 + signal.SIGABRT, f"exit code {128 + signal.SIGABRT}"),
    ],
)
def test_a_fault_signal_or_an_exit_code_is_a_crash(code: int, cause: str) -> None:
    exit = engine_exit(3, ExitStatus(code), out_of_memory=False)

    assert (exit.number, exit.crashed, exit.cause) == (3, True, cause)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 0, 137, 143, None])
def test_an_end_that_somebody_may_have_caused_is_not_a_crash(code: int | None) -> None:
    assert not engine_exit(1, ExitStatus(code), out_of_memory=False).crashed


def test_a_kill_is_a_crash_only_if_the_kernel_counted_one_for_memory() -> None:
    assert engine_exit(1, ExitStatus(-signal.SIGKILL), out_of_memory=True).cause == "out of memory"
    assert not engine_exit(1, ExitStatus(-signal.SIGTERM), out_of_memory=True).crashed

from __future__ import annotations

import signal

import pytest

from vllama_pool.router.supervisor.supervisor import describe_exit, force_hint


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (signal.SIGINT, "Ctrl-C again stops at once"),
        (signal.SIGTERM, "a second SIGTERM or Ctrl-C stops at once"),
        (signal.SIGHUP, "a second SIGHUP or Ctrl-C stops at once"),
    ],
)
def test_the_hint_how_to_stop_at_once_fits_the_first_signal(first: signal.Signals, hint: str) -> None:
    assert force_hint(first) == hint


def test_an_exit_is_described_by_its_code_or_the_signals_name() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-9) == "was killed by SIGKILL"

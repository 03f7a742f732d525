"""Terminal output of `vllama serve`, also when it cannot be written."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vllama_pool.router.supervisor.console import Console


def test_console_lines_have_columns_and_errors_start_with_vllama() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    console.line("worker", "w-0", "loading")
    console.note("ready")
    console.error("no disk; buy one")
    assert out.getvalue() == "worker    w-0  loading\nready\n"
    assert err.getvalue() == "vllama: no disk; buy one\n"


def test_a_closed_output_pipe_does_not_stop_the_supervisor() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as raw:
        console = Console(io.TextIOWrapper(raw, write_through=True), io.StringIO())
        for _ in range(3):
            console.note("anybody there?")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_does_not_stop_the_supervisor() -> None:
    with open("/dev/full", "wb", buffering=0) as raw:
        console = Console(io.TextIOWrapper(raw, write_through=True), io.StringIO())
        for _ in range(3):
            console.note("still serving")

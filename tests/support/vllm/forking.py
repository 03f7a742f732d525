"""vLLM's program, with an engine that is forked: it imports vLLM once, not in each of its three processes.

    python forking.py serve MODEL ...    (vLLM's interpreter)

A start takes less than half of the CPU time. The processes and all that they do are the same. On a CPU, vLLM spawns
them because OpenMP's threads do not survive a fork. One thread (OMP_NUM_THREADS=1) has none to lose.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from multiprocessing.context import BaseContext

STARTERS = ("vllm.v1.engine.utils", "vllm.v1.executor.multiproc_executor")
"""They start processes."""
IMPORTED = ("vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama")
"""The engine imports them."""


def main() -> None:
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("a forked engine needs OMP_NUM_THREADS=1")
    fork_engines()
    for name in IMPORTED:
        importlib.import_module(name)
    sys.exit(importlib.import_module("vllm.entrypoints.cli.main").main())


def fork_engines() -> None:
    """Let vLLM fork the processes of its engine in this process, which has one OpenMP thread."""
    for name in STARTERS:
        importlib.import_module(name).get_mp_context = _fork  # type: ignore[attr-defined]


def _fork() -> BaseContext:
    return multiprocessing.get_context("fork")


if __name__ == "__main__":
    main()

"""A process that has imported vLLM and forks its servers: a start takes 3 s of CPU time instead of 26.

    python -m tests.support.vllm.prepared_process    (vLLM's interpreter)

It reads one JSON object per line from stdin, `{"argv": [...], "env": {...}, "log": path}`, and writes the process ID of
each server to stdout. A server leads its own process group and gets SIGTERM when this process ends, as it does at the
end of its input.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from tests.support.vllm.forking import fork_engines
from vllama_pool.workers.process.lifeline import die_with_parent

IMPORTED = (
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen3",
)


def main() -> None:
    serve = _prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the servers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    for line in sys.stdin:
        request = json.loads(line)
        tie = die_with_parent(signal.SIGTERM)
        server = os.fork()
        if server == 0:
            tie()
            _become(serve, request["argv"], request["env"], request["log"])
        print(server, file=answers, flush=True)


def _prepare() -> Callable[[], None]:
    """Import what every server needs. Return vLLM's main function."""
    for name in IMPORTED:
        importlib.import_module(name)
    fork_engines()
    gc.collect()
    gc.freeze()
    serve: Callable[[], None] = importlib.import_module("vllm.entrypoints.cli.main").main
    return serve


def _become(serve: Callable[[], None], argv: list[str], env: dict[str, str], log: str) -> NoReturn:
    """Run a server in this process, which a fork has just made."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null, out = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.environ.update(env)
        sys.argv = argv
        serve()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()

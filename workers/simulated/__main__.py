"""`python -m vllama_pool.workers.simulated [MODEL] --flags`: a simulated worker as a process, in place of vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TextIO

import uvloop

from vllama_pool.workers.simulated.options import Options, parse_arguments
from vllama_pool.workers.simulated.server import Simulated

KILLED = 137
"""Exit code of a process that SIGKILL ended."""


def main() -> int:
    options, ignored = parse_arguments(sys.argv[1:], os.environ)
    if ignored:
        _say(f"ignored, as nothing is loaded: {' '.join(ignored)}", sys.stderr)
    try:
        uvloop.run(_serve(options))
    except OSError as error:
        _say(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}", sys.stderr)
        return 1
    return 0


async def _serve(options: Options) -> None:
    worker = Simulated(options, die=lambda: os._exit(KILLED))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await worker.start()
    _say(
        f"Simulated worker (no model, no GPU): {', '.join(options.names)} at {worker.url}, {options.slots} slots of "
        f"{options.pace.tokens_per_second:g} tokens/s",
        sys.stdout,
    )
    await stopped.wait()
    await worker.drain(options.shutdown_timeout)


def _say(text: str, stream: TextIO) -> None:
    print(text, file=stream, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

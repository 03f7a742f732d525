"""`python -m vllama_pool.workers.simulated [MODEL] --flags`: a simulated worker as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import uvloop

from vllama_pool.workers.simulated.options import Death, Options, parse_arguments
from vllama_pool.workers.simulated.server import Simulated

KILLED, FAILED = 137, 1
"""Exit codes."""
ENGINE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> int:
    options, ignored = parse_arguments(sys.argv[1:], os.environ)
    if ignored:
        _say(f"ignored, as nothing is loaded: {' '.join(ignored)}", sys.stderr)
    try:
        with _engine() if options.engine_process else contextlib.nullcontext():
            uvloop.run(_serve(options))
    except OSError as error:
        _say(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}", sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _engine() -> Iterator[None]:
    """Run a child process that outlives a kill of this process, like vLLM's engine."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ENGINE]) as engine:
        try:
            yield
        finally:
            engine.kill()


async def _serve(options: Options) -> None:
    worker = Simulated(options, die=lambda: die(options.death))
    stopped = asyncio.Event()

    def stop() -> None:
        if not worker.ignores_sigterm:
            stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if await _stopped_within(options.startup, stopped):
        return
    await worker.start()
    _say(
        f"Simulated worker (no model, no GPU): {', '.join(options.names)} at {worker.url}, {options.slots} slots of "
        f"{options.pace.tokens_per_second:g} tokens/s",
        sys.stdout,
    )
    await stopped.wait()
    await worker.drain(options.shutdown_timeout)


def die(death: Death) -> None:
    """End this process as `death` says, at once."""
    if death == "abort":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()
    os._exit(FAILED if death == "exit" else KILLED)


async def _stopped_within(seconds: float, stopped: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopped.wait()
    return stopped.is_set()


def _say(text: str, stream: TextIO) -> None:
    print(text, file=stream, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

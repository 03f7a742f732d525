"""Workers in the registry, all answered by one fake vLLM, as a program.

    python -m tests.bench.fleet STATE_DIR PORT WORKERS MODELS FIRST

Registers workers FIRST, FIRST + 1, …, and beats for each once a second, as agents do. Each serves the benchmark's
model; further models are spread over the workers. It prints "ready" when all are registered, and ends with its standard
input.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.bench.apis import SERVED
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

BEAT = 1.0
"""Seconds."""
SLOTS = 20_000
"""More than any scenario's requests, so that none waits."""


def worker_url(index: int, port: int) -> str:
    """URL of a worker, as in fake_vllm.c."""
    return f"http://127.1.{index // 250}.{index % 250 + 1}:{port}"


def model_name(first: int, index: int) -> str:
    """Return the served name of a further model of the fleet that begins with worker `first`."""
    return f"bench/model-{first}-{index}"


def record(index: int, port: int, further: Iterable[str]) -> WorkerRecord:
    models = tuple(
        ModelInfo(name=name, digest="a" * 64, size=1000, architecture="llama", context_length=8192)
        for name in (SERVED, *further)
    )
    return WorkerRecord(id=f"bench-{index}", generation=1, url=worker_url(index, port), models=models, slots=SLOTS)


async def announce(state_dir: Path, records: list[WorkerRecord]) -> None:
    redis = connect(embedded.address(state_dir))
    registry = Registry(redis, "default")
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    try:
        for each in records:
            await registry.register(each, LoadReport())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        beats = asyncio.create_task(_beat(registry, records))
        await asyncio.wait([ended, beats], return_when=asyncio.FIRST_COMPLETED)
        beats.cancel()
    finally:
        await redis.aclose()


async def _beat(registry: Registry, records: list[WorkerRecord]) -> None:
    """Beat for all workers in turn, for ever."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for each in itertools.cycle(records):
        due += BEAT / len(records)
        await asyncio.sleep(due - loop.time())
        with contextlib.suppress(RegistryUnavailable):
            await registry.beat(each.id, each.generation, LoadReport())


def main(state_dir: str, port: str, workers: str, models: str, first: str) -> None:
    begin, count = int(first), int(workers)
    further = [model_name(begin, index) for index in range(1, int(models))]
    records = [record(begin + index, int(port), further[index::count]) for index in range(count)]
    asyncio.run(announce(Path(state_dir), records))


if __name__ == "__main__":
    main(*sys.argv[1:])

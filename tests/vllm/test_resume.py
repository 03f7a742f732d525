"""kill -9 of one of two vLLMs while both stream: the other one continues the streams of the lost one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.router.test_resume import Answer, ask
from tests.support.fleet.live import BEAT, Fleet, fleet
from tests.support.until import auntil
from tests.support.vllm.servers import Servers, Spec, VllmServer
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

COPIES = 4
"""Streams of each kind: 16 in all."""
TOKENS = 60
ANIMALS = "🦊🐻🐼你好世界 🦊🐻🐼你好世界 🦊🐻🐼你好世界 🦊🐻"
"""The model goes on with it, in characters of several tokens."""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Write the numbers from one to fifty as words."}]}
USAGE = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": TOKENS}
OPTIONS = {"temperature": 0, "num_predict": TOKENS}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", CHAT | {"options": OPTIONS}),
    ("/api/generate", {"prompt": ANIMALS, "raw": True, "options": OPTIONS}),
    ("/v1/chat/completions", CHAT | USAGE | {"stop": ["never to be seen"]}),
    ("/v1/completions", {"prompt": ANIMALS} | USAGE),
]


@pytest.fixture
def pair(servers: Servers, smollm2: Path) -> Iterator[tuple[VllmServer, VllmServer]]:
    """Servers of these tests alone, as one of them is killed."""
    spec = Spec("smollm2:135m", smollm2, ("--max-model-len", "2048", "--max-num-seqs", "16"))
    first, second = (servers.get(replace(spec, env=(("REPLICA", name),)), own=True) for name in "12")
    yield first, second
    first.stop()
    second.stop()


@asynccontextmanager
async def routed(folder: Path, pair: tuple[VllmServer, VllmServer]) -> AsyncIterator[Fleet]:
    """A router, with both servers in its registry under one digest."""
    async with fleet(folder, {}) as running:
        info = ModelInfo(name=pair[0].model, digest="d" * 64, context_length=2048)
        records = [
            WorkerRecord(id=name, generation=1, url=server.url, models=(info,), slots=32)
            for name, server in zip("ab", pair, strict=True)
        ]
        for record in records:
            await running.registry.register(record, LoadReport())

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT)
                for record in records:
                    await running.registry.beat(record.id, 1, LoadReport())

        beats = asyncio.create_task(beat())
        try:
            await running.until_state("a", "ready")
            await running.until_state("b", "ready")
            yield running
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats


async def test_sixteen_greedy_streams_survive_the_end_of_one_of_two_servers(
    tmp_path: Path, pair: tuple[VllmServer, VllmServer], record_property: Callable[[str, object], None]
) -> None:
    async with routed(tmp_path, pair) as running:
        running.http.timeout = 300
        model = {"model": pair[0].model}
        whole = [await ask(running, path, body | model, Answer()) for path, body in REQUESTS]
        assert any(ord(character) > 0xFFFF for character in whole[1].text), whole[1].text
        answers = [Answer() for _ in range(COPIES * len(REQUESTS))]
        tasks = [
            asyncio.create_task(ask(running, path, body | model, answers[index * COPIES + copy]))
            for index, (path, body) in enumerate(REQUESTS)
            for copy in range(COPIES)
        ]
        await auntil(lambda: all(len(one.text) > 20 for one in answers), 120, "all streams to have begun")
        begun = [len(one.texts) for one in answers]
        assert pair[0].process is not None
        os.killpg(pair[0].process.pid, signal.SIGKILL)
        killed = time.monotonic()
        grown = [0.0] * len(answers)

        async def watch() -> None:
            while not all(grown):
                for index, one in enumerate(answers):
                    if not grown[index] and len(one.texts) > begun[index] + 1:
                        grown[index] = time.monotonic() - killed
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*tasks)
        await auntil(lambda: sum(bool(one.get("resumed")) for one in running.records()) > 0, 5, "some to be logged")
        watching.cancel()
        resumed = [one for one in running.records() if one.get("resumed")]
        equal = sum(one.compared == whole[index // COPIES].compared for index, one in enumerate(answers))
        record_property(
            "figure",
            f"kill -9 of one of two vLLMs with {len(answers)} streams: {equal} equal, {len(resumed)} resumed; "
            f"longest gap {max(grown):.2f} s",
        )
        for index, one in enumerate(answers):
            assert one.compared == whole[index // COPIES].compared
        assert {one["outcome"] for one in resumed} == {"complete"}

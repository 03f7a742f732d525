"""kill -9 of one of two vLLMs while both stream: the other one continues the streams of the lost one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.router.test_resume import Answer
from tests.support.fleet.live import BEAT, Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.servers import VllmServer
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

Figures = Callable[[str, object], None]
Pair = tuple[VllmServer, VllmServer]
COPIES = 2
"""Streams of each request: 16 in all."""
TOKENS = 160
"""So many that the streams last for several seconds after the first ones have begun."""
NUMBERS: dict[str, Any] = {"messages": [{"role": "user", "content": "Write the numbers from one to fifty as words."}]}
ANIMALS = "🦊🐻🐼你好世界 🦊🐻🐼你好世界 🦊🐻🐼你好世界 🦊🐻"
"""The model goes on with it, in characters of several tokens."""
ALMOST = "🦊🐻🐼你好世界!"
"""A stop string that is never complete, so that vLLM always holds text back for it."""
USAGE = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": TOKENS}
OPTIONS: dict[str, Any] = {"temperature": 0, "num_predict": TOKENS}
ALONE = "alone"
"""A name of the same model, whose streams are not resumed."""


@dataclass(frozen=True)
class Request:
    path: str
    body: dict[str, Any]
    stops_late: bool = False
    """To be given a stop string that is found late in its answer."""

    def stopped_by(self, stop: str) -> Request:
        if "options" in self.body:
            return Request(self.path, self.body | {"options": self.body["options"] | {"stop": [stop]}})
        return Request(self.path, self.body | {"stop": [stop]})


REQUESTS = (
    Request("/api/chat", NUMBERS | {"options": OPTIONS}),
    Request("/api/chat", NUMBERS | {"options": OPTIONS}, stops_late=True),
    Request("/api/generate", {"prompt": ANIMALS, "raw": True, "options": OPTIONS}),
    Request("/api/generate", {"prompt": ANIMALS, "raw": True, "options": OPTIONS}).stopped_by(ALMOST),
    Request("/v1/chat/completions", NUMBERS | USAGE),
    Request("/v1/chat/completions", NUMBERS | USAGE, stops_late=True),
    Request("/v1/completions", {"prompt": ANIMALS} | USAGE),
    Request("/v1/completions", {"prompt": ANIMALS} | USAGE).stopped_by(ALMOST),
)


@dataclass
class Stream(Answer):
    name: str = ""
    """The id of its request."""
    worker: str = ""
    """The first one."""
    times: list[float] = field(default_factory=list)
    """Of each piece of text, in monotonic seconds."""

    def read(self, line: str) -> None:
        known = len(self.text)
        super().read(line)
        if len(self.text) > known:
            self.times.append(time.monotonic())

    def longest_pause(self, since: float) -> float:
        """Return the longest time between two pieces of text, of which the second came after `since`."""
        return max((new - old for old, new in zip(self.times, self.times[1:], strict=False) if new > since), default=0)


async def ask(running: Fleet, request: Request, model: str, name: str, stream: Stream | None = None) -> Stream:
    stream = stream or Stream(name=name)
    body, headers = {**request.body, "model": model}, {"x-request-id": name, "x-vllama-trace": "1"}
    async with running.http.stream("POST", request.path, json=body, headers=headers) as response:
        assert response.status_code == 200
        stream.worker = response.headers["x-vllama-worker"]
        async for line in response.aiter_lines():
            stream.read(line)
    return stream


@asynccontextmanager
async def routed(folder: Path, pair: Pair) -> AsyncIterator[Fleet]:
    """A router, with both servers in its registry under one digest."""
    table = routing_table(models={ALONE: {"serve": pair[0].model, "resume": False}})
    async with fleet(folder, {}, table=table) as running:
        running.http.timeout = 300
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


async def with_stops(running: Fleet, request: Request, model: str) -> Request:
    """Add a stop string that is found late in the request's answer, if it is to have one."""
    if not request.stops_late:
        return request
    text = (await ask(running, request, model, "unstopped")).text
    late = len(text) * 3 // 4
    stop = next(text[late : late + size] for size in range(4, 40) if text.index(text[late : late + size]) == late)
    return request.stopped_by(stop)


@dataclass
class Killed:
    """Streams that ran while one of two servers was killed."""

    whole: list[Stream]
    """The undisturbed answer to each request."""
    streams: list[Stream]
    """`copies` for each request, in this order."""
    alone: list[Stream]
    """Those that may not be resumed."""
    at: float
    """Monotonic seconds."""


async def kill_one(running: Fleet, pair: Pair, requests: tuple[Request, ...], copies: int) -> Killed:
    model = pair[0].model
    requests = tuple(await asyncio.gather(*(with_stops(running, request, model) for request in requests)))
    undisturbed = (ask(running, request, model, f"whole-{index}") for index, request in enumerate(requests))
    whole = await asyncio.gather(*undisturbed)
    streams = [Stream(name=f"stream-{number}") for number in range(copies * len(requests))]
    alone = [Stream(name=f"alone-{number}") for number in range(4)]
    async with asyncio.TaskGroup() as tasks:
        for number, stream in enumerate(streams):
            tasks.create_task(ask(running, requests[number // copies], model, stream.name, stream))
        for number, stream in enumerate(alone):
            tasks.create_task(ask(running, requests[number % len(requests)], ALONE, stream.name, stream))
        least = len(streams) // 4
        await auntil(lambda: _begun(streams, "a") >= least, 120, f"{least} streams to have begun on the doomed server")
        assert pair[0].process is not None
        os.killpg(pair[0].process.pid, signal.SIGKILL)
        killed = time.monotonic()
    return Killed(whole, streams, alone, killed)


def _begun(streams: list[Stream], worker: str) -> int:
    return sum(one.worker == worker and len(one.text) > 20 for one in streams)


async def test_sixteen_greedy_streams_survive_the_end_of_one_of_two_servers(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    async with routed(tmp_path, smollm2_pair) as running:
        killed = await kill_one(running, smollm2_pair, REQUESTS, COPIES)
        log = {one.name: await running.record(one.name) for one in killed.streams + killed.alone}
    assert any(ord(character) > 0xFFFF for character in killed.whole[2].text), killed.whole[2].text
    assert [one.reason for one in killed.whole].count("stop") >= 2, "the late stop strings are found"
    resumed = [one for one in killed.streams if log[one.name].get("resumed")]
    pauses = sorted(1000 * one.longest_pause(killed.at) for one in resumed)
    equal = sum(one.compared == killed.whole[number // COPIES].compared for number, one in enumerate(killed.streams))
    lost = [one for one in killed.alone if one.errors]
    record_property(
        "figure",
        f"kill -9 of one of two vLLMs with {len(killed.streams)} streams: {equal} equal, {len(resumed)} resumed after "
        f"{', '.join(f'{pause:.0f}' for pause in pauses)} ms; of {len(killed.alone)} without resume {len(lost)} lost",
    )
    for number, one in enumerate(killed.streams):
        assert one.compared == killed.whole[number // COPIES].compared
        assert log[one.name]["outcome"] == "complete"
    assert resumed, "some were on the killed server"
    for one in killed.alone:
        assert (len(one.errors), log[one.name]["outcome"]) in ((0, "complete"), (1, "lost"))
        assert not log[one.name].get("resumed")
        assert not one.errors or log[one.name]["worker"] == "a"

"""Streamed requests to a router, and clients that keep a load on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.support.fleet.main_job import MODEL, Fleet

NUMBERS = "Write all numbers from one to five hundred, separated by commas."

Json = dict[str, Any]
Figures = Callable[[str, object], None]
"""pytest's `record_property`."""


@dataclass
class Stream:
    """One streamed request and its answer so far."""

    id: str
    status: int = 0
    lines: list[Json] = field(default_factory=list)

    @property
    def has_content(self) -> bool:
        return any(_text(line) for line in self.lines)

    @property
    def text(self) -> str:
        return "".join(map(_text, self.lines))

    @property
    def complete(self) -> bool:
        """True if it ended with `done` and without an error."""
        return bool(self.lines) and self.lines[-1].get("done") is True and not self.errors

    @property
    def errors(self) -> list[str]:
        return [line["error"] for line in self.lines if "error" in line]

    @property
    def tokens(self) -> int:
        return int(self.lines[-1].get("eval_count", 0)) if self.lines else 0


def _text(line: Json) -> str:
    return str(line.get("response") or line.get("message", {}).get("content") or "")


def chat_body(tokens: int, *, stream: bool = True, model: str = MODEL) -> Json:
    """Return a request whose answer is `tokens` long (up to 1500): SmolLM2 lists numbers without end."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": NUMBERS}],
        "stream": stream,
        "options": {"num_predict": tokens, "temperature": 0},
    }


def generate_body(tokens: int, model: str) -> Json:
    """Return a request to the model that cannot chat. It answers "oooo", up to 2000 tokens; to other prompts, it may
    repeat an incomplete character."""
    return {"model": model, "prompt": "hello", "options": {"num_predict": tokens, "temperature": 0}}


def client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, timeout=300, limits=limits)


async def follow(http: httpx.AsyncClient, url: str, body: Json, stream: Stream) -> None:
    """Send a request and add the lines of its answer to `stream`."""
    headers = {"x-request-id": stream.id}
    async with http.stream("POST", url, json=body, headers=headers) as answer:
        stream.status = answer.status_code
        async for line in answer.aiter_lines():
            stream.lines.append(json.loads(line))


@contextlib.asynccontextmanager
async def streaming(url: str, body: Json, count: int, name: str) -> AsyncIterator[Streaming]:
    """Start `count` streams; yields them with their tasks. Disconnects those that still run at the end."""
    streams = [Stream(f"{name}-{number}") for number in range(count)]
    async with client() as http:
        tasks = [asyncio.create_task(follow(http, url, body, stream)) for stream in streams]
        try:
            yield streams, tasks
        finally:
            await drop(tasks)


Streaming = tuple[list[Stream], list[asyncio.Task[None]]]


async def drop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Disconnect."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


@dataclass(frozen=True)
class EngineCounts:
    """Sums of the metrics of all vLLMs of a model."""

    running: int
    waiting: int
    generated: int
    """Tokens since the start."""

    @property
    def requests(self) -> tuple[int, int]:
        return self.running, self.waiting


ReadCounts = Callable[[], Awaitable[EngineCounts]]


@contextlib.asynccontextmanager
async def engine_counts(fleet: Fleet, model: str = MODEL) -> AsyncIterator[ReadCounts]:
    """Yields a reader of the counts of all vLLMs of a model."""
    workers = (await asyncio.to_thread(fleet.workers)).values()
    urls = [f"{worker['url']}/metrics" for worker in workers if model in worker["models"]]
    assert urls, f"workers of {model}"
    async with client() as http:

        async def read() -> EngineCounts:
            pages = [page.text for page in await asyncio.gather(*map(http.get, urls))]
            names = ("num_requests_running", "num_requests_waiting", "generation_tokens_total")
            return EngineCounts(*(sum(_metric(page, name) for page in pages) for name in names))

        yield read


@dataclass
class RequestResults:
    """Results of sequential requests."""

    statuses: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    times: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each, in monotonic seconds."""

    def within(self, start: float) -> int:
        """Return the number of those that began after `start` and have ended."""
        return sum(began >= start for began, _ in self.times)


class BackgroundLoad:
    """Clients that send requests until the context ends, and check that the model stays listed."""

    def __init__(self, fleet: Fleet, clients: int, *, tokens: int = 5, pause: float = 0.2) -> None:
        self.requests = RequestResults()
        self.unlisted = 0
        """Responses of `GET /api/ps` without the model."""
        self._fleet = fleet
        self._clients = clients
        self._tokens = tokens
        self._pause = pause
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> BackgroundLoad:
        self._http = client()
        self._tasks = [asyncio.create_task(self._run_client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def _run_client(self, number: int) -> None:
        """Alternate between streamed and unstreamed requests; stop after the answer in progress."""
        url, stream = self._fleet.url, bool(number % 2)
        while not self._stop.is_set():
            start = time.monotonic()
            try:
                answer = await self._http.post(f"{url}/api/chat", json=chat_body(self._tokens, stream=stream))
                listed = (await self._http.get(f"{url}/api/ps")).json()["models"]
            except httpx.HTTPError as error:
                self.requests.failures.append(f"{type(error).__name__}: {error}")
                continue
            ended = time.monotonic()
            self.requests.slowest = max(self.requests.slowest, ended - start)
            self.requests.times.append((start, ended))
            self.requests.statuses.append(answer.status_code)
            if answer.status_code != 200 or json.loads(answer.text.splitlines()[-1]).get("done") is not True:
                self.requests.failures.append(answer.text[-500:])
            self.unlisted += MODEL not in [model["name"] for model in listed]
            stream = not stream
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._pause)


@contextlib.asynccontextmanager
async def kept_killed(find: Callable[[], psutil.Process | None]) -> AsyncIterator[set[int]]:
    """Kill the process that `find` returns, again after each restart, until the context ends. Yields the pids."""
    killed: set[int] = set()

    async def kill() -> None:
        while True:
            found = find()
            if found is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.kill()
                    killed.add(found.pid)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        await drop([task])


def _metric(page: str, name: str) -> int:
    return sum(int(float(n)) for n in re.findall(rf"^vllm:{name}\{{.*\}} (\S+)", page, re.MULTILINE))

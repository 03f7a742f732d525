"""Clients that keep requests in flight, and the outcome of each request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.requests import Request, Result, Route, Verdict, judge, parse

HUNG = 30.0
"""Seconds after which an answer counts as lost."""
ROUTES = tuple(Route)
"""Half of them stream."""
LIMIT = 1 << 20
NOT_FINISHED = Verdict(Result.LOST, why="not finished")


@dataclass(slots=True)
class Outcome:
    """One request and what became of it. Times are monotonic seconds."""

    request: Request
    port: int
    """Of the router that took it."""
    started: float
    first: float = 0.0
    """The first byte; 0 for none."""
    ended: float = 0.0
    gap: float = 0.0
    """Longest pause between two reads of the answer."""
    raw: bytes = b""
    verdict: Verdict = NOT_FINISHED

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def lost(self) -> bool:
        return self.verdict.result is Result.LOST

    @property
    def headers(self) -> Mapping[str, str]:
        """Raises Malformed if there are none."""
        return parse(self.raw).headers

    def __str__(self) -> str:
        return f"{self.request.route} {self.request.question!r} at port {self.port}: {self.verdict.why}"


async def exchange(request: Request, ports: Sequence[int], *, patience: float = HUNG) -> Outcome:
    """Send a request to the first port that accepts a connection, and judge its answer.

    A refused connection goes on to the next port, as a load balancer does. Nothing is lost while one accepts.
    """
    outcome = Outcome(request, ports[0], time.monotonic())
    try:
        async with asyncio.timeout(patience):
            reader, writer = await _connected(outcome, ports)
            try:
                writer.write(request.bytes())
                await _receive(outcome, reader)
            finally:
                writer.transport.abort()
        outcome.verdict = judge(request, outcome.raw)
    except TimeoutError:
        outcome.verdict = Verdict(Result.LOST, why=f"hung for {patience:g} s after {len(outcome.raw)} bytes")
    except OSError as error:
        why = f"{type(error).__name__} after {len(outcome.raw)} bytes"
        outcome.verdict = Verdict(Result.LOST, why=why)
    outcome.ended = time.monotonic()
    if not outcome.lost:
        outcome.raw = outcome.raw[:2048]
    return outcome


async def _connected(outcome: Outcome, ports: Sequence[int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError if no port accepts."""
    for outcome.port in ports[:-1]:
        with contextlib.suppress(ConnectionRefusedError):
            return await asyncio.open_connection("127.0.0.1", outcome.port, limit=LIMIT)
    outcome.port = ports[-1]
    return await asyncio.open_connection("127.0.0.1", outcome.port, limit=LIMIT)


async def _receive(outcome: Outcome, reader: asyncio.StreamReader) -> None:
    parts: list[bytes] = []
    last = 0.0
    try:
        while data := await reader.read(65536):
            now = time.monotonic()
            if last:
                outcome.gap = max(outcome.gap, now - last)
            else:
                outcome.first = now
            last = now
            parts.append(data)
    finally:
        outcome.raw = b"".join(parts)


@dataclass
class Load:
    """A number of clients, each with one request after another, over all routers in turn."""

    ports: Callable[[], Sequence[int]]
    """Ports of the routers, read anew for each request."""
    name: str
    clients: int = 50
    tokens: int = 24
    model: str = "m"
    routes: Sequence[Route] = ROUTES
    pause: float = 0.0
    """Seconds between two requests of a client."""
    make: Callable[[Request], Request] = lambda request: request
    """Changes each request."""
    outcomes: list[Outcome] = field(default_factory=list)
    started: int = 0
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def running(self, ramp: float = 0.5) -> AsyncIterator[Load]:
        """Start the clients within `ramp` seconds. At the end each finishes its request."""
        async with asyncio.TaskGroup() as group:
            for index in range(self.clients):
                group.create_task(self._client(ramp * index / self.clients))
            try:
                yield self
            finally:
                self._leaving.set()

    async def until_complete(self, count: int, timeout: float = 60.0) -> None:
        """Wait until as many further requests have ended."""
        target, deadline = len(self.outcomes) + count, time.monotonic() + timeout
        while len(self.outcomes) < target:
            if time.monotonic() > deadline:
                raise AssertionError(f"not {count} answers within {timeout:g} s of load")
            await asyncio.sleep(0.02)

    async def _client(self, delay: float) -> None:
        await self._rest(delay)
        while not self._leaving.is_set():
            number = next(self._numbers)
            self.started += 1
            route = self.routes[number % len(self.routes)]
            request = Request(f"request {number} of {self.name}", self.tokens, route, self.model)
            ports = self.ports()
            first = number // len(self.routes) % len(ports)
            self.outcomes.append(await exchange(self.make(request), [*ports[first:], *ports[:first]]))
            await self._rest(self.pause)

    async def _rest(self, seconds: float) -> None:
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), seconds)

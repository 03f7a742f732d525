"""Clients that read a byte per second."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import select
import socket
import time
from collections.abc import AsyncIterator, Sequence

import psutil

from tests.chaos.fleet import Plan
from tests.chaos.requests import Request, Result, Route, judge
from tests.chaos.row import Rows, Scene
from tests.chaos.rows.clients import KIB, check_unaffected, quiet_load

READERS = 50
KERNEL = 16 * KIB
"""Bytes of each connection of a client that the kernel may hold at either end; Linux doubles them."""
LIMIT, FULL_LIMIT = 10.0, 60.0
"""Seconds without progress until a client is dropped: shortened, and the routers' default."""
LATE = 3.0
"""Seconds of tolerance: the router looks each second."""
PER_READER = 256 * KIB
"""The bound of the memory of the routers."""
FULL_SIZE = Plan(send_buffer=KERNEL)
SMALL_SIZE = dataclasses.replace(FULL_SIZE, router_env={"VLLAMA_CLIENT_STALL": f"{LIMIT:g}s"})
TOKENS = 1000


def add(rows: Rows) -> None:
    rows.row(
        "F23",
        "50 clients read a byte per second",
        "Slow readers take little memory and are dropped in time; others notice nothing.",
        plan=SMALL_SIZE,
        full_plan=FULL_SIZE,
    )(read_slowly)


class Reader:
    """A client that reads a byte per second of a large answer, and whose kernel holds little of it."""

    def __init__(self, port: int, request: Request) -> None:
        self.bytes = 0
        self.ended = 0.0
        """Monotonic seconds; 0 while the connection is open."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)  # before the handshake offers a window
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(request.bytes())
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, 0)  # reports a reset, although there are bytes to read before it

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            self.bytes += len(self._socket.recv(1))

    def look(self) -> None:
        if not self.ended and self._poll.poll(0):
            self.ended = time.monotonic()

    def close(self) -> None:
        self._socket.close()


async def read_slowly(scene: Scene) -> None:
    worker = await scene.static_worker(
        *("--max-num-seqs", "64", "--tokens-per-second", "1000", "--ttft", "0"),
        *("--answer-tokens", str(TOKENS)),
        model="large",
    )
    await scene.route(large=worker.url)
    ports, limit = scene.fleet.ports, scene.size(LIMIT, FULL_LIMIT)
    for port in ports:  # their first answers of this kind
        size = await answer_size(port)
    usual = await quiet_load(scene)
    dropped_before = await dropped(scene)
    memory = Memory([psutil.Process(router.pid) for router in scene.fleet.routers])
    start = time.monotonic()
    readers = [Reader(ports[number % len(ports)], large(f"slow {number}")) for number in range(READERS)]
    try:
        async with observing(readers, memory):
            await scene.until(lambda: all(one.bytes for one in readers), 20, "each slow reader has a byte")
            await scene.until(lambda: worker.stats()["running"] == 0, 20, "the worker has sent each answer")
            sent = time.monotonic()
            during = await quiet_load(scene)
            early = sum(bool(one.ended) for one in readers)
            await scene.until(lambda: all(one.ended for one in readers), limit + 30, "each slow reader is dropped")
    finally:
        for one in readers:
            one.close()
    times = [one.ended - start for one in readers]
    kept = size - sum(one.bytes for one in readers) // READERS - 4 * KERNEL  # doubled, at both ends
    scene.notes.append(
        f"{memory.grown / READERS / KIB:.0f} KiB per slow reader of {size / KIB:.0f} KiB; "
        f"dropped after {min(times):.1f} to {max(times):.1f} s"
    )
    scene.check(kept > 4 * PER_READER, f"the kernel may hold all but {kept / KIB:.0f} KiB of an answer")
    scene.check(memory.grown <= READERS * PER_READER, f"{memory.grown / READERS / KIB:.0f} KiB per slow reader")
    scene.check(not early, f"{early} slow readers were dropped before the others were measured")
    scene.check(min(times) >= limit, f"a reader was dropped after {min(times):.1f} s; the limit is {limit:g} s")
    late = max(one.ended for one in readers) - sent - limit
    scene.check(late <= LATE * scene.patience, f"a reader was dropped {late:.1f} s after the limit")
    counted = await dropped(scene) - dropped_before
    scene.check(counted == READERS, f"the routers counted {counted:.0f} slow readers")
    check_unaffected(scene, usual, during)
    await scene.recovers(scene.fleet.at_rest, 5, "all counts are 0")


class Memory:
    """The highest memory of some processes."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._now()
        self.grown = 0
        """Bytes."""

    def look(self) -> None:
        self.grown = max(self.grown, self._now() - self._before)

    def _now(self) -> int:
        return sum(int(process.memory_info().rss) for process in self._processes)


@contextlib.asynccontextmanager
async def observing(readers: Sequence[Reader], memory: Memory) -> AsyncIterator[None]:
    """Let the readers read a byte per second, and watch them and the memory ten times per second."""

    async def observe() -> None:
        for step in itertools.count():
            for one in readers:
                one.look()
                if step % 10 == 0:
                    one.read()
            memory.look()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(observe())
    try:
        yield
    finally:
        task.cancel()


def large(question: str) -> Request:
    """Return a request whose answer is more than a KiB for each token."""
    extra = {"logprobs": True, "top_logprobs": 20}
    return Request(question, TOKENS, Route.V1_STREAM, "large", extra)


async def answer_size(port: int) -> int:
    """Return the bytes of such an answer. Raises AssertionError if it is not complete."""
    request = large("how much is it")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.bytes())
        answer = await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.transport.abort()
    verdict = judge(request, answer)
    assert verdict.result is Result.COMPLETE, verdict
    return len(answer)


async def dropped(scene: Scene) -> float:
    """Return how many slow readers the routers have dropped."""
    return sum([await router.metric("vllama_refusals_total", reason="unread") for router in scene.fleet.routers])

"""Ten thousand clients leave at random moments, and nothing of them stays in the router."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import socket
import struct
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.load

LEAVINGS = 10_000
AT_ONCE = 100
LATEST = 0.06
"""Seconds. An answer takes about 40 ms on an idle machine, so leavings meet each moment of it."""
SHORT = Options(model="short", slots=2 * AT_ONCE, tokens_per_second=200, ttft=0.01, answer_tokens=6)
LONG = Options(model="long", slots=2 * AT_ONCE, tokens_per_second=200, ttft=0.01, answer_tokens=100_000)
"""Its answers end only because their clients have left."""

T = TypeVar("T")


class Made:
    """The objects that were made since: the tracebacks of failed tests may hold others."""

    def __init__(self) -> None:
        self._earlier = self._alive(Forwarder, Pool, StallWatch, UpstreamClient, InFlight, BoundedProtocol)

    def alive(self, kind: type[T]) -> list[T]:
        return [one for one in self._alive(kind) if not any(one is earlier for earlier in self._earlier)]

    def the(self, kind: type[T]) -> T:
        (one,) = self.alive(kind)
        return one

    @staticmethod
    def _alive(*kinds: type[Any]) -> list[Any]:
        gc.collect()
        return [one for one in gc.get_objects() if type(one) in kinds]


def chat(*, stream: bool, rng: random.Random) -> bytes:
    model = rng.choice(("short", "long"))
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    encoded = json.dumps(body).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(encoded)}\r\n\r\n"
    whole = head.encode() + encoded
    return whole if rng.random() > 0.1 else whole[: rng.randrange(1, len(whole))]


async def leave(router: Fleet, rng: random.Random) -> None:
    """Send a request, or the beginning of one, and leave with FIN or RST after a random time."""
    address = urlsplit(router.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(chat(stream=rng.random() < 0.7, rng=rng))
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(rng.uniform(0, LATEST)):
                while await reader.read(2**16):
                    pass
    finally:
        if rng.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_ten_thousand_leavings_at_random_moments_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng, made = random.Random(9), Made()
    async with fleet(tmp_path, {"a": SHORT, "b": LONG}) as router:
        await asyncio.gather(*(leave(router, rng) for _ in range(AT_ONCE)))
        forwarder, pool = made.the(Forwarder), made.the(Pool)
        stalls, client = made.the(StallWatch), made.the(UpstreamClient)

        def idle() -> bool:
            return (
                repr(forwarder) == "<Forwarder 0 waiting, 0 in flight>"
                and repr(stalls) == "<StallWatch 0 watched>"
                and ", 0 in use, 0 connecting>" in repr(client)
                and pool.in_flight == 0
                and not any(worker.worker.running or worker.worker.waiting for worker in router.workers.values())
            )

        await auntil(idle, 10, "the first requests to end")
        tasks = len(asyncio.all_tasks())
        for _ in range(LEAVINGS // AT_ONCE):
            await asyncio.gather(*(leave(router, rng) for _ in range(AT_ONCE)))
        await auntil(idle, 10, "all requests to end")
        await auntil(lambda: len(asyncio.all_tasks()) <= tasks, 10, "all tasks to end")
        await auntil(lambda: not made.alive(InFlight), 10, "all requests to be freed")
        assert len(made.alive(BoundedProtocol)) <= 1  # the test's own
        outcomes = {record["outcome"] for record in router.records() if record.get("operation") == "chat"}
        assert outcomes == {"complete", "client gone"}
        assert (await router.http.get("/api/version")).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []

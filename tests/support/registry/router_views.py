"""Real discovery and real announcers in the test's event loop. The workers answer only GET /health."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.discovery.drains import Drains
from vllama_pool.router.discovery.health_probe import health_probe
from vllama_pool.router.discovery.registry_loop import Discovery
from vllama_pool.router.discovery.saved_view import SavedView
from vllama_pool.router.discovery.trust import Endpoints, RecordChecker
from vllama_pool.workers.agent.announcer import Announcer, FencedOff
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord
from vllama_pool.workers.vllm.probe import http_client

FLEET = "f"
SECRET = b"fleet secret"


class RecordingPool(Pool):
    """A pool that records when workers joined and left, and which were ever down."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.joined_at: dict[str, float] = {}
        self.removed_at: dict[str, float] = {}
        self.marked_down: list[str] = []

    def put(self, *found: Discovered) -> None:
        for one in found:
            self.joined_at.setdefault(one.record.id, time.monotonic())
        super().put(*found)

    def remove(self, *worker_ids: str) -> None:
        self.removed_at |= dict.fromkeys(worker_ids, time.monotonic())
        super().remove(*worker_ids)

    def mark_down(self, worker_id: str) -> None:
        self.marked_down.append(worker_id)
        super().mark_down(worker_id)

    def usable(self, worker_id: str) -> bool:
        worker = self.get(worker_id)
        return worker is not None and worker.is_available(time.monotonic())

    @property
    def all_usable(self) -> set[str]:
        return {worker.id for worker in self if worker.is_available(time.monotonic())}


class RouterView:
    """One router process's discovery with its pool."""

    def __init__(
        self,
        pool: RecordingPool,
        discovery: Discovery,
        record_checker: RecordChecker,
        drains: Drains,
        task: asyncio.Task[None],
    ) -> None:
        self.pool = pool
        self.drains = drains
        self.discovery = discovery
        self.record_checker = record_checker
        self.task = task


@contextlib.asynccontextmanager
async def router_view(
    address: str, *, secret: bytes | None = SECRET, saved: SavedView | None = None
) -> AsyncIterator[RouterView]:
    """Follow the registry at an address. An exception in the discovery fails the test."""
    redis = connect(address)
    pool = RecordingPool()
    record_checker = RecordChecker(
        fleet=FLEET,
        secret=secret,
        allow_unsigned=False,
        networks=[ip_network("127.0.0.0/8")],
        endpoints=Endpoints(None),
    )
    async with http_client(1.0) as client:
        registry = Registry(redis, FLEET)
        drains = Drains(registry, pool.drain, fleet=FLEET, secret=secret, allow_unsigned=False)
        discovery = Discovery(registry, record_checker, pool, health_probe(client, None), drains=drains, saved=saved)
        task = asyncio.create_task(discovery.run())
        try:
            yield RouterView(pool, discovery, record_checker, drains, task)
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            await redis.aclose()


class Worker:
    """A worker that only answers GET /health, and its agent."""

    def __init__(self, worker_id: str, address: str, *, generation: int = 1, secret: bytes | None = SECRET) -> None:
        self.id = worker_id
        self.generation = generation
        self.address = address
        self.contacts = 0
        self.hangs = False
        self.fenced = False
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._beats: asyncio.Task[None] | None = None
        self._redis = connect(address)
        self.registry = Registry(self._redis, FLEET, secret=secret)
        self._announcer = Announcer(self.registry, lambda line: None, rng=random.Random())

    @property
    def record(self) -> WorkerRecord:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return WorkerRecord(
            id=self.id,
            generation=self.generation,
            url=f"http://127.0.0.1:{port}",
            models=(ModelInfo(name="m"),),
            slots=4,
        )

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)

    def join(self) -> None:
        """Register and start to beat."""
        self._announcer.announce(self.record, LoadReport())
        self._beats = asyncio.create_task(self._beat())

    async def stop_beating(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.wait([self._beats])
            self._beats = None

    def beat_again(self) -> None:
        self._beats = asyncio.create_task(self._beat())

    async def leave(self) -> None:
        await self.stop_beating()
        await self._announcer.deregister()

    async def die(self) -> None:
        """Stop without leaving the registry."""
        await self.stop_beating()
        await self.stop_listening()

    async def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._open:
                writer.transport.abort()

    async def close(self) -> None:
        await self.die()
        await self._redis.aclose()

    async def _beat(self) -> None:
        try:
            await self._announcer.run()
        except FencedOff:
            self.fenced = True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.contacts += 1
        self._open.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not self.hangs:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


@contextlib.asynccontextmanager
async def workers(address: str, *names: str, joined: bool = True) -> AsyncIterator[list[Worker]]:
    """Start workers with these ids; close them at the end."""
    made = [Worker(name, address) for name in names]
    try:
        for worker in made:
            await worker.listen()
            if joined:
                worker.join()
        yield made
    finally:
        for worker in made:
            await worker.close()


def all_see(views: list[RouterView], what: Callable[[RecordingPool], bool]) -> Callable[[], bool]:
    return lambda: all(what(view.pool) for view in views)

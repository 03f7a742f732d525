"""A router in the test's event loop, with real sockets, a Valkey and simulated workers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import msgspec
import uvicorn

from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.router.app import create_app
from vllama_pool.router.server.gate import Gate
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.workers.agent.load_statistics import TokenRate
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.embedded import EmbeddedValkey
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

BEAT = 0.25
"""Shorter than an agent's interval, so that tests are fast."""
PATIENCE = 15.0
"""Seconds for a connection to a worker: a busy machine is no lost worker."""
PATIENT: dict[str, Any] = {"probe_timeout": 60.0}
"""Settings of `fleet` over real vLLMs that nobody stops: one that is slow to answer is not lost."""
PATIENT_ENV = {"VLLAMA_PROBE_TIMEOUT": "60", "VLLAMA_CONNECT_TIMEOUT": "60"}
"""The same for `vllama` commands."""


class Server(uvicorn.Server):
    """uvicorn without signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve the app on a free port; yields its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    # As on uvloop. Otherwise the second packet of a response, its body, waits for the first one's ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,  # longer than httpx keeps its own, so that no request meets the end of a connection
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    try:
        await auntil(lambda: server.started or task.done(), 20, "the router to start")
        if task.done():
            task.result()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Announced:
    """A simulated worker with an agent's registration and beats."""

    def __init__(self, worker: Simulated, record: WorkerRecord, registry: Registry) -> None:
        self.worker = worker
        self.record = record
        self.state = WorkerState.READY
        self._registry = registry
        self._rate = TokenRate()
        self._beats: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.record.id

    async def join(self) -> None:
        """Register the present record, and start to beat."""
        await self.fall_silent()
        await self._registry.register(self.record, self.load())
        self._beats = asyncio.get_running_loop().create_task(self._beat())

    async def fall_silent(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)

    async def drain(self) -> None:
        self.state = WorkerState.DRAINING
        await self._registry.beat(self.id, self.record.generation, self.load())

    def load(self) -> LoadReport:
        rate = self._rate.update(time.monotonic(), self.worker.tokens)
        return LoadReport(
            state=self.state, running=self.worker.running, waiting=self.worker.waiting, tokens_per_second=rate
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            with contextlib.suppress(RegistryUnavailable):
                if not await self._registry.beat(self.id, self.record.generation, self.load()):
                    await self._registry.register(self.record, self.load())


@dataclass
class Fleet:
    url: str
    http: httpx.AsyncClient
    workers: dict[str, Announced]
    registry: Registry
    valkey: EmbeddedValkey
    app: Gate
    log: io.BytesIO = field(default_factory=io.BytesIO)

    def __getitem__(self, name: str) -> Simulated:
        return self.workers[name].worker

    async def states(self) -> dict[str, str]:
        """Return the state of each worker id, as the router sees it."""
        page = (await self.http.get("/admin/workers")).json()
        return {worker["id"]: worker["state"] for worker in page["workers"]}

    async def until_state(self, worker_id: str, state: str) -> None:
        """Wait until the router sees a worker in this state."""

        async def reached() -> bool:
            return (await self.states()).get(worker_id) == state

        await auntil(reached, 10, f"{worker_id} to be {state}")

    def records(self) -> list[dict[str, Any]]:
        """Return the request log."""
        return [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]

    async def record(self, request_id: str) -> dict[str, Any]:
        """Wait for one request's log line."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records() if record["id"] == request_id]

        return (await auntil(found, 5, f"the log line of {request_id}"))[0]


def model(options: Options) -> ModelInfo:
    capabilities = ["embedding"] if options.embedding else ["completion"]
    if options.tool_calls:
        capabilities.append("tools")
    if options.transcription:
        capabilities.append("audio")
    if options.reasoning:
        capabilities.append("thinking")
    return ModelInfo(
        name=options.model,
        aliases=options.aliases,
        digest="a" * 64,
        size=1000,
        architecture="llama",
        context_length=options.max_model_len,
        capabilities=tuple(capabilities),
        has_template=options.chat_template,
        template="{{ messages }} {% if not enable_thinking %}<think></think>{% endif %}" if options.reasoning else "",
    )


@asynccontextmanager
async def fleet(
    state_dir: Path,
    workers: dict[str, Options],
    *,
    table: RoutingTable | None = None,
    wait: bool = True,
    tags: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Workers by id, registered, with their tags, and a router that sees all of them; not yet, without `wait`."""
    log = io.BytesIO()
    async with contextlib.AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(running_valkey(state_dir))
        redis = connect(embedded.address(state_dir))
        stack.push_async_callback(redis.aclose)
        registry = Registry(redis, "default")
        announced: dict[str, Announced] = {}
        stack.push_async_callback(_silence, announced)
        for name, options in workers.items():
            worker = await stack.enter_async_context(Simulated(options))
            record = WorkerRecord(
                id=name,
                generation=1,
                url=worker.url,
                models=(model(options),),
                slots=options.slots,
                tags=tags.get(name, ()),
            )
            announced[name] = Announced(worker, record, registry)
            await announced[name].join()
        app = create_app(
            patient_settings(state_dir, **settings),
            table or (None if "routing_file" in settings else RoutingTable()),
            log_stream=log,
        )
        url = await stack.enter_async_context(serving(app))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False)
        )
        running = Fleet(url, http, announced, registry, valkey, app, log)
        count = len(workers) + len(table.workers if table else ())
        if wait:
            await auntil(lambda: _all_ready(running, count), 60, "the router to see its workers")
        yield running


def patient_settings(state_dir: Path, **settings: Any) -> RouterSettings:
    """Return settings with an embedded registry and patience with a busy machine."""
    return RouterSettings(registry=RegistrySettings(state_dir=state_dir), **{"connect_timeout": PATIENCE, **settings})


async def _silence(announced: dict[str, Announced]) -> None:
    """Stop all beats, which would outlive the registry's connections."""
    for each in announced.values():
        await each.fall_silent()


async def _all_ready(running: Fleet, count: int) -> bool:
    states = await running.states()
    return len(states) == count and set(states.values()) <= {"ready"}

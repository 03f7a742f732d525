"""A forwarder in front of scripted workers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.balance import Clock, FirstCandidate, found, group, pool_of
from tests.support.protocol import event
from tests.support.until import auntil
from tests.support.upstream import FakeClient, FakeExchange, FakeResponse, Hang, RecordingWriter, Script
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.admission import Admission, RequestLimits
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.admission.turns import Turns
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol import operation as protocol
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.operation import DirectResponse, Operation, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.proxy.collaborators import Shared, Upstream
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.timeouts import Timeouts, TimeoutTable
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.telemetry.decisions import Decision
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.upstream.interface import Client, ConnectFailed
from vllama_pool.workers.registry.record import ModelInfo

CHAT = next(operation for operation in operations(SystemClock()) if operation.name == "chat")
SERVED = ModelInfo(name="m", context_length=2048, template="{{ messages }}")
ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
HI = event(choices=[{"index": 0, "delta": {"content": "hi"}}])
END = (
    event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    + b"data: [DONE]\n\n"
)


def ok() -> FakeResponse:
    return FakeResponse([HI, END])


def status(code: int, text: str = "no") -> FakeResponse:
    return FakeResponse([json.dumps({"error": {"message": text, "code": code}}).encode()], code)


def silent() -> FakeResponse:
    return FakeResponse([Hang()], 0)


def refused() -> ConnectFailed:
    return ConnectFailed("refused")


def asking(then: Callable[[bytes], UpstreamRequest]) -> Operation[Any]:
    """A chat that needs a preflight."""
    return dataclasses.replace(CHAT, prepare=lambda *_: PreflightRequest("/tokenize", b"?", then))


class StepClock:
    """Adapts the pool's clock to the protocol's `Clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def time_ns(self) -> int:
        return 0

    def monotonic_ns(self) -> int:
        return int(self._clock() * 1e9)


class FixedDelay(random.Random):
    """`uniform` always returns `delay`."""

    def __init__(self, delay: float) -> None:
        super().__init__(1)
        self.delay = delay

    def uniform(self, a: float, b: float) -> float:
        return self.delay


def turns_of(pool: Pool, clock: protocol.Clock) -> Turns:
    """Turns at a pool's workers, given by the running event loop."""

    def later(delay: float, action: Callable[[], None]) -> asyncio.Handle:
        return asyncio.get_running_loop().call_later(delay, action)

    return Turns(pool.vacancies, later, lambda: clock.monotonic_ns() / 1e9)


def shared_by_requests(
    client: Client,
    pool: Pool,
    stalls: StallWatch,
    clock: protocol.Clock,
    *,
    delay: float = 0.0,
    max_waiting: int = 512,
    refresh: Callable[[], None] = lambda: None,
) -> Shared:
    upstream = Upstream(
        client=client,
        pool=pool,
        stalls=stalls,
        clock=clock,
        timeouts=TimeoutTable(Timeouts(connect=0.7)),
    )
    return Shared(upstream, FixedDelay(delay), Admission(max_waiting, turns_of(pool, clock)), refresh, debug=True)


class Fleet:
    """A forwarder in front of scripted workers, tried in the order of their names."""

    def __init__(
        self,
        *,
        delay: float = 0.0,
        max_waiting: int = 512,
        upstream: FakeClient | None = None,
        lagging: bool = False,
        limits: RequestLimits | None = None,
        table: RoutingTable | None = None,
        models: Mapping[str, ModelInfo] | None = None,
        poison: Any = None,
        **scripts: Script,
    ) -> None:
        """`lagging`: clients read nothing until the test lets them catch up. `limits`: of the model. `table`: has the
        model "m"; workers are then tried by load. `models`: those that are not SERVED, by worker. `poison`: a guard."""
        self._lagging = lagging
        clock = self.clock = Clock()
        self.pool = pool_of(clock, *(found(worker, (models or {}).get(worker, SERVED)) for worker in scripts))
        self._routes = ModelRoutes(table, random.Random(1)) if table is not None else None
        self.upstream = upstream or FakeClient(scripts)
        self.stalls = StallWatch()
        self.refreshes: list[None] = []
        self.records: list[RequestRecord] = []
        self.writers: list[RecordingWriter] = []
        self.answers_announced = 0
        shared = shared_by_requests(
            self.upstream,
            self.pool,
            self.stalls,
            StepClock(clock),
            delay=delay,
            max_waiting=max_waiting,
            refresh=lambda: self.refreshes.append(None),
        )
        shared = dataclasses.replace(shared, poison=poison)
        self.shared = shared
        self.admission = shared.admission
        self.admission.set_limits({"m": limits} if limits is not None else {})
        self.forwarder = Forwarder(shared)

    @property
    def record(self) -> RequestRecord:
        """Of the latest request."""
        return self.records[-1]

    @property
    def writer(self) -> RecordingWriter:
        """Of the latest request."""
        return self.writers[-1]

    def begin(
        self,
        *,
        stream: bool = True,
        operation: Operation[Any] = CHAT,
        size: int | None = None,
        caps: tuple[AdmissionQueue, ...] = (),
        tenant: Tenant | None = None,
        address: str = "",
        body: bytes | None = None,
    ) -> InFlight:
        """Admit a request of the present task. `body`: if it is not a chat."""
        body = (
            body
            or json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()
        )
        resolution = Resolution("m", "m", group(self.pool), NO_DEFAULTS, FirstCandidate())
        if self._routes is not None:
            resolution = self._routes.resolve("m", self.pool)
        size = len(body) if size is None else size
        self.records.append(RequestRecord(id="id", operation="chat", client="", address=address))
        self.decision = Decision(self.record, 0, size)
        grant = Grant(caps=caps, tenant=tenant)
        request = ForwardRequest(operation, operation.decode(body), resolution, self.decision, grant)
        self.writers.append(RecordingWriter())
        if self._lagging:
            self.writer.lag()
        self.in_flight = self.forwarder.begin(request, self.record, self.writer, self._announce)
        return self.in_flight

    async def forward(self, *, stream: bool = True, operation: Operation[Any] = CHAT) -> DirectResponse | None:
        in_flight = self.begin(stream=stream, operation=operation)
        try:
            return await in_flight.run()
        finally:
            in_flight.close()
            in_flight.close()

    async def answer(self, *, stream: bool = True, operation: Operation[Any] = CHAT) -> bytes:
        """Return the body of the client's response, which is a 200."""
        assert await self.forward(stream=stream, operation=operation) is None
        assert (self.writer.status, self.record.status) == (200, 200)
        self.assert_idle()
        return self.writer.body

    async def refusal(self, *, stream: bool = True, operation: Operation[Any] = CHAT) -> ClientError:
        """Return the client's error."""
        with pytest.raises(ClientError) as caught:
            await self.forward(stream=stream, operation=operation)
        assert self.writer.status == 0
        self.assert_idle()
        return caught.value

    def assert_idle(self) -> None:
        """Every lease, exchange, admission, budget entry and stall watch was released, once."""
        assert self.pool.in_flight == 0
        assert [worker.in_flight for worker in self.pool] == [0] * len(self.pool)
        assert all(exchange.released for exchange in self.upstream.exchanges)
        assert repr(self.forwarder) == "<Forwarder 0 waiting, 0 in flight>"
        assert all(queue.is_idle for _, queue in self.admission.queues())
        assert repr(self.stalls) == "<StallWatch 0 watched>"

    def _announce(self) -> None:
        assert self.writer.status == 0, "announced after the response began"
        self.answers_announced += 1


async def exchange_of(fleet: Fleet, *, played: int = 0) -> FakeExchange:
    """Return the latest exchange once it has played this many steps."""
    await auntil(lambda: bool(fleet.upstream.exchanges) and fleet.upstream.exchanges[-1].played >= played)
    return fleet.upstream.exchanges[-1]

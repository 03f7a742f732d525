"""Events in any order: a request ends once, and releases each thing that it holds once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.forwarding import CHAT, END, HI, ROLE, Fleet
from tests.support.garbage import watch_garbage
from tests.support.protocol import event
from tests.support.upstream import FakeClient, FakeExchange
from vllama_pool.router.admission.admission import RequestLimits
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.in_flight import ClientGone
from vllama_pool.router.proxy.relay import Ending
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost

CHUNKS = {
    "role": ROLE,
    "content": HI,
    "end": END,
    "whole answer": HI + END,
    "error event": event(error={"message": "died", "code": 500}),
    "content and error": HI + event(error={"message": "busy", "code": 503}),
    "half an event": HI[:-5],
}
ONE = RequestLimits(concurrency=1)
HEADS = {"head": 200, "head of 400": 400, "head of 503": 503}
EVENTS = (
    *HEADS,
    *CHUNKS,
    "eof",
    "lost",
    "stall",
    "refuse",
    "lag",
    "catch up",
    "drop",
    "leave",
    "cancel",
    "turn",
    "free place",
)


class HandDriven(FakeClient):
    """Responds with what the test pushes."""

    def __init__(self) -> None:
        super().__init__({})
        self.begun: set[FakeExchange] = set()
        """Exchanges whose head arrived."""

    def next_response(self, worker: str) -> None:
        return None

    def push(self, name: str) -> None:
        exchange = self.exchanges[-1] if self.exchanges else None
        if exchange is None or exchange.sink is None:
            return
        if name == "lost":
            exchange.fail(ConnectionLost("reset"))
        elif name == "refuse" and exchange not in self.begun:
            exchange.fail(ConnectFailed("refused"))
        elif name in HEADS and exchange not in self.begun:
            self.begun.add(exchange)
            exchange.sink.head(HEADS[name], {})
        elif name in CHUNKS and exchange in self.begun:
            exchange.sink.data(CHUNKS[name])
        elif name == "eof" and exchange in self.begun:
            sink, exchange.sink = exchange.sink, None
            sink.eof()


class Scenario:
    """One request of a fleet of three workers."""

    def __init__(self, *, stream: bool, preflight: bool, queued: bool) -> None:
        self.errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.errors.append(context))
        self.upstream = HandDriven()
        self.fleet = Fleet(upstream=self.upstream, limits=ONE, a=[], b=[], c=[])
        queue = self.fleet.admission.queue("m")
        assert queue is not None
        self.other = queue.enter()
        if not queued:
            self.other.end()
        self.stream = stream
        self.left = self.cancelled = False
        self.operation = dataclasses.replace(CHAT, prepare=self._prepare) if preflight else CHAT
        self.task = asyncio.create_task(self.fleet.forward(stream=stream, operation=self.operation))

    def _prepare(self, *_: Any) -> NextStep:
        return PreflightRequest("/tokenize", b"?", self._after_preflight)

    def _after_preflight(self, _: bytes) -> NextStep:
        return UpstreamRequest("/v1/chat/completions", b"{}")

    async def happen(self, name: str) -> None:
        actions: dict[str, Callable[[], object]] = {
            "stall": lambda: self.fleet.stalls.check(asyncio.get_running_loop().time() + 1000),
            "lag": self.fleet.writer.lag,
            "catch up": self.fleet.writer.catch_up,
            "drop": self.fleet.writer.drop,
            "leave": self.leave,
            "cancel": self.cancel,
            "free place": self.other.end,
        }
        if name == "turn":
            await asyncio.sleep(0)
        elif name in actions:
            actions[name]()
        else:
            self.upstream.push(name)

    def leave(self) -> None:
        if not self.left and not self.task.done():
            self.left = True
            self.fleet.in_flight.client_gone()

    def cancel(self) -> None:
        self.cancelled = self.task.cancel() or self.cancelled

    async def end(self) -> object:
        """End the request as its client leaves. Return its result or exception."""
        self.other.end()
        self.leave()
        await asyncio.wait([self.task], timeout=0)
        self.fleet.writer.catch_up()  # as a server does once the client is gone
        await asyncio.wait([self.task], timeout=30)
        assert self.task.done()
        try:
            return self.task.result()
        except (ClientError, ClientGone, asyncio.CancelledError) as error:
            return error

    def check(self, result: object) -> None:
        writer, record = self.fleet.writer, self.fleet.record
        self.fleet.assert_idle()
        assert all(exchange.finished + exchange.closed == 1 for exchange in self.upstream.exchanges)
        assert all(exchange.sink is None for exchange in self.upstream.exchanges)
        if result is None:
            assert writer.status == 200
            assert record.outcome in set(Ending) - {Ending.WHOLE}
            assert writer.ended or record.outcome in (Ending.CLIENT_GONE, Ending.CLIENT_STALLED)
        elif isinstance(result, asyncio.CancelledError):
            assert self.cancelled
        else:
            assert not isinstance(result, DirectResponse)
            assert (writer.status, record.outcome) == (0, "")
            assert self.left or not isinstance(result, ClientGone)
        assert self.fleet.answers_announced <= (0 if self.stream else 1)


BEGINNINGS = ((), ("head",), ("head", "content"), ("head", "lag", "content"), ("head", "content", "lag", "content"))


@given(
    beginning=st.sampled_from(BEGINNINGS),
    names=st.lists(st.sampled_from(EVENTS), max_size=12),
    stream=st.booleans(),
    preflight=st.booleans(),
    queued=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_request_ends_once_and_releases_everything_once_whatever_happens(
    beginning: tuple[str, ...], names: list[str], stream: bool, preflight: bool, queued: bool
) -> None:
    async def scenario() -> None:
        scene = Scenario(stream=stream, preflight=preflight, queued=queued)
        with watch_garbage() as garbage:
            await asyncio.sleep(0)
            for name in (*beginning, *names):
                await scene.happen(name)
            result = await scene.end()
            for _ in range(3):
                await asyncio.sleep(0)
            scene.check(result)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            del result, scene.task, scene.fleet.in_flight
        assert scene.errors == []
        assert garbage == []

    asyncio.run(scenario())

"""One inference request: the client's response, the log record and what is released, by each way it can end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from vllama_pool.router.proxy.attempt import WorkerResponse

from tests.support.asgi import DISCONNECT, FakeClient, Message, body_part, http_scope
from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.handlers.inference import InferenceHandler
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker
from vllama_pool.router.protocol.operation import DirectResponse, StreamFailure, Usage
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.proxy.forward import ForwardRequest
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.telemetry.request_record import LOGGED_TEXT_LENGTH, RequestRecord
from vllama_pool.router.upstream.interface import ConnectionLost, Sink
from vllama_pool.workers.registry.record import ModelInfo

SERVED = ModelInfo(name="m", context_length=2048, template="{{ messages }}")


class StepClock:
    """Advances by 1 ms with each reading."""

    def __init__(self) -> None:
        self._now = 0

    def time_ns(self) -> int:
        return 5_000_000_000

    def monotonic_ns(self) -> int:
        self._now += 1_000_000
        return self._now


CHAT = next(operation for operation in operations(StepClock()) if operation.name == "chat")


@dataclasses.dataclass
class FakeResponse:
    """A worker's response that the test pushes, or that is read to its end."""

    unread: list[bytes] = dataclasses.field(default_factory=list)
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sink: Sink | None = None
    closed: int = 0
    never_ends: bool = False

    async def read(self) -> bytes:
        if self.never_ends:
            await asyncio.get_running_loop().create_future()
        return self.unread.pop(0) if self.unread else b""

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


class Echo:
    """A translator that passes bytes on. "!" completes the answer, "#" is an error event."""

    ready = begun = True
    cut_off = False

    def __init__(self, *, done: bool = False) -> None:
        self.done = done
        self.failure: StreamFailure | None = None
        self.usage = Usage(3, 7, "stop")

    def feed(self, data: bytes) -> bytes:
        if data == b"#":
            self.failure = StreamFailure(500, "engine died")
            return b""
        self.done = self.done or b"!" in data
        return data

    def finish(self) -> bytes:
        return b"<end>" if self.done else self.fail("cut short")

    def fail(self, text: str) -> bytes:
        return b"<error: " + text.encode() + b">"


class Client(FakeClient):
    """A client that stays connected until the test calls `disconnect`."""

    def __init__(self, *messages: Message) -> None:
        super().__init__(*messages)
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        if not self.unread:
            await self._gone.wait()
            return DISCONNECT
        return await super().receive()

    def disconnect(self) -> None:
        self._gone.set()


class Router:
    """A handler over one worker "a" that serves "m". The test decides what `acquire` does."""

    def __init__(self) -> None:
        self.pool = pool_of(Clock(), found("a", SERVED))
        self.records: list[RequestRecord] = []
        self.calls: list[ForwardRequest] = []
        self.expiry = ExpiryTracker(300)
        self.stalls = StallWatch(StallLimits())
        self.response = FakeResponse()
        self.translator = Echo()
        self.acquired: Callable[[], Awaitable[WorkerResponse | DirectResponse]] = self.answer
        routes = ModelRoutes(RoutingTable(), random.Random(1))
        self.handler = InferenceHandler(
            routes=lambda: routes,
            pool=self.pool,
            acquire=self._acquire,
            stalls=self.stalls,
            clock=StepClock(),
            observer=self,
            expiry=self.expiry,
            body_limit=1000,
            client_stall=5.0,
        )

    def finished(self, record: RequestRecord) -> None:
        self.records.append(record)

    async def _acquire(self, call: ForwardRequest, record: RequestRecord) -> WorkerResponse | DirectResponse:
        self.calls.append(call)
        return await self.acquired()

    async def answer(self) -> WorkerResponse:
        lease = self.pool.lease(worker_in(self.pool, "a"), "m")
        return WorkerResponse(lease, self.response, self.translator, b"hi ")

    def fail(self, error: Exception) -> None:
        async def raising() -> WorkerResponse:
            raise error

        self.acquired = raising

    async def handle(self, client: Client) -> None:
        scope = http_scope("POST", "/api/chat")
        await self.handler.handle(CHAT, scope, client.receive, client.send)

    async def respond(self, **fields: Any) -> Client:
        """Handle one request to its end and check that nothing leaks."""
        client = Client(chat(**fields))
        await self.handle(client)
        self.assert_idle()
        return client

    async def stream(self, *, until: Callable[[Sink, Client], object]) -> Client:
        """Start a streamed request, run `until` once its response has begun, and wait for its end."""
        client = Client(chat())
        task = asyncio.create_task(self.handle(client))
        await auntil(lambda: self.response.sink is not None, 5, "a relayed response")
        assert self.response.sink is not None
        until(self.response.sink, client)
        await task
        self.assert_idle()
        return client

    @property
    def record(self) -> RequestRecord:
        (record,) = self.records
        return record

    def assert_idle(self) -> None:
        """Lease, connection and stall watch are released."""
        assert self.pool.in_flight == 0
        assert repr(self.stalls) == "<StallWatch 0 watched>"


def chat(**fields: Any) -> Message:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return body_part(json.dumps(body).encode(), more=False)


async def test_a_streamed_answer_is_relayed_and_recorded_as_complete() -> None:
    router = Router()

    def finish(sink: Sink, client: Client) -> None:
        sink.data(b"there!")
        sink.eof()

    client = await router.stream(until=finish)
    assert (client.status, client.headers) == (200, {b"content-type": b"application/x-ndjson"})
    assert client.body == b"hi there!<end>"
    record = router.record
    assert (record.id, record.operation, record.client) == ("id-1", "chat", "anna")
    assert (record.status, record.outcome, record.stream) == (200, "complete", True)
    assert (record.prompt_tokens, record.completion_tokens, record.done_reason) == (3, 7, "stop")
    assert 0 < record.first_ms < record.total_ms
    assert router.response.closed


async def test_a_whole_answer_is_one_response_and_the_workers_response_is_read_to_its_end() -> None:
    router = Router()
    router.translator.done = True
    router.response.unread = [b"data: [DONE]", b""]
    client = await router.respond(stream=False)
    assert (client.status, client.body) == (200, b"hi <end>")
    assert client.headers == {b"content-type": b"application/json; charset=utf-8", b"content-length": b"8"}
    assert router.response.unread == []
    assert (router.record.outcome, router.record.stream) == ("complete", False)


async def test_a_whole_answer_is_complete_even_if_the_workers_response_does_not_end() -> None:
    router = Router()
    router.translator.done = True
    router.response.never_ends = True
    client = await router.respond(stream=False)
    assert client.body == b"hi <end>"
    assert router.record.outcome == "complete"
    assert worker_in(router.pool, "a").is_available(1060)


async def test_a_worker_lost_in_mid_stream_leaves_one_error_line_and_becomes_suspect() -> None:
    router = Router()
    client = await router.stream(until=lambda sink, _: sink.lost(ConnectionLost("reset")))
    assert client.status == 200
    assert client.body.startswith(b"hi <error: the worker was lost")
    assert router.record.outcome == "lost"
    assert worker_in(router.pool, "a").is_suspect(1060)


async def test_an_error_event_in_mid_stream_reaches_the_client_and_is_recorded_as_failed() -> None:
    router = Router()
    client = await router.stream(until=lambda sink, _: sink.data(b"#"))
    assert client.body == b"hi <error: engine died>"
    assert router.record.outcome == "failed"


async def test_a_disconnect_in_mid_stream_ends_the_request_and_does_not_blame_the_worker() -> None:
    router = Router()
    await router.stream(until=lambda _, client: client.disconnect())
    assert (router.record.outcome, router.record.completion_tokens) == ("client gone", 7)
    assert worker_in(router.pool, "a").is_available(1060)


async def test_a_disconnect_while_a_worker_is_sought_cancels_the_search() -> None:
    router = Router()
    cancelled = asyncio.Event()

    async def never() -> WorkerResponse:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        raise AssertionError

    router.acquired = never
    client = Client(chat())
    task = asyncio.create_task(router.handle(client))
    await auntil(lambda: bool(router.calls), 5, "a search")
    client.disconnect()
    await task
    assert cancelled.is_set()
    assert (router.record.status, router.record.outcome) == (499, "client gone")
    assert client.received == []


async def test_a_disconnect_within_the_body_is_recorded_and_nothing_is_sent() -> None:
    router = Router()
    client = Client(body_part(b'{"model"'), DISCONNECT)
    await router.handle(client)
    assert (router.record.status, router.record.outcome, router.calls) == (499, "client gone", [])
    assert client.received == []


async def test_a_cancelled_request_is_recorded_and_stays_cancelled() -> None:
    router = Router()
    task = asyncio.create_task(router.handle(Client(chat())))
    await auntil(lambda: router.response.sink is not None, 5, "a relayed response")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert router.record.outcome == "cancelled"
    router.assert_idle()


async def test_a_stalled_worker_ends_the_stream_with_an_error_line() -> None:
    router = Router()
    client = await router.stream(until=lambda *_: router.stalls.check(asyncio.get_running_loop().time() + 121))
    assert b"<error: " in client.body
    assert router.record.outcome == "lost"


async def test_a_request_that_needs_no_worker_is_answered_without_one() -> None:
    router = Router()
    client = await router.respond(messages=[], stream=False)
    assert json.loads(client.body)["done_reason"] == "load"
    assert router.calls == []
    assert (router.record.status, router.record.outcome) == (200, "complete")


async def test_a_preflight_that_answers_is_sent_as_it_is() -> None:
    router = Router()

    async def direct() -> DirectResponse:
        return DirectResponse(b"{}", 202)

    router.acquired = direct
    client = await router.respond()
    assert (client.status, client.body) == (202, b"{}")
    assert (router.record.status, router.record.outcome) == (202, "complete")


async def test_a_client_error_becomes_a_response_and_is_recorded_as_refused() -> None:
    router = Router()
    router.fail(ServerBusy("busy", retry_after=1))
    client = await router.respond()
    assert (client.status, json.loads(client.body), client.headers[b"retry-after"]) == (503, {"error": "busy"}, b"1")
    assert (router.record.status, router.record.outcome, router.record.model) == (503, "refused", "m")


async def test_an_unknown_model_gets_404_and_its_name_is_not_recorded_as_a_model() -> None:
    router = Router()
    name = f"{'x' * 60}/{'y' * 70}"
    client = await router.respond(model=name)
    assert (client.status, json.loads(client.body)["error"]) == (404, f"model '{name}' not found")
    assert router.record.model == ""
    assert router.record.requested == name[:LOGGED_TEXT_LENGTH]


async def test_a_model_whose_workers_are_out_gets_503_and_is_recorded_under_its_name() -> None:
    router = Router()
    router.pool.report("a", DRAINING)
    client = await router.respond()
    assert (client.status, router.calls) == (503, [])
    assert (router.record.model, router.record.outcome) == ("m", "refused")


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b" " * 1001, 413)])
async def test_an_invalid_or_large_body_is_refused_before_a_worker_is_sought(body: bytes, status: int) -> None:
    router = Router()
    client = Client(body_part(body, more=False))
    await router.handle(client)
    assert (client.status, router.record.status, router.calls) == (status, status, [])


async def test_an_unexpected_exception_is_recorded_as_an_error_and_raised() -> None:
    router = Router()
    router.fail(RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        await router.respond()
    assert (router.record.status, router.record.outcome) == (500, "error")


async def test_the_forward_request_carries_id_size_and_time_of_arrival() -> None:
    router = Router()
    message = chat(stream=False)
    router.translator.done = True
    client = Client(message)
    await router.handle(client)
    (call,) = router.calls
    assert (call.request_id, call.size, call.operation.name) == ("id-1", len(message["body"]), "chat")
    assert call.arrived > 0
    assert call.resolution.model == "m"


@pytest.mark.parametrize("fails", [False, True])
async def test_keep_alive_counts_from_the_end_of_the_request_also_if_it_fails(fails: bool) -> None:
    router = Router()
    router.translator.done = True
    if fails:
        router.fail(ServerBusy("busy"))
    now = StepClock().time_ns()
    assert not router.expiry.lives("m:latest", now)
    await router.respond(stream=False, keep_alive="10s")
    assert router.expiry.expires("m:latest", now) == now + 10 * 10**9


async def test_a_use_is_noted_before_the_client_has_its_whole_answer() -> None:
    """The client's next request may be for /api/ps, in any process."""
    router = Router()
    router.translator.done = True
    running: list[tuple[str, ...]] = []

    class Asking(Client):
        async def send(self, message: Message) -> None:
            running.append(router.expiry.uses().running)
            await super().send(message)

    await router.handle(Asking(chat(stream=False)))
    assert running
    assert not any(running)

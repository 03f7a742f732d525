"""One inference request: the client's response, the log record and what is released, by each way it can end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.asgi import DISCONNECT, FakeClient, Message, body_part, http_scope
from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from tests.support.forwarding import shared_by_requests
from tests.support.keys import rights
from tests.support.until import auntil
from tests.support.upstream import FakeClient as Upstream
from tests.support.upstream import FakeExchange, FakeResponse, Hang, Step
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.admission.grant import GRANT, Grant
from vllama_pool.router.errors import ServerBusy
from vllama_pool.router.handlers.inference import InferenceHandler
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker
from vllama_pool.router.protocol.operation import (
    DirectResponse,
    Operation,
    PreflightRequest,
    StreamFailure,
    UpstreamRequest,
    Usage,
)
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.shadow import Shadows
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.disconnect import DISCONNECT as SIGNAL
from vllama_pool.router.server.disconnect import DisconnectSignal
from vllama_pool.router.telemetry.decisions import Decisions
from vllama_pool.router.telemetry.recent_names import RecentNames
from vllama_pool.router.telemetry.request_record import LOGGED_TEXT_LENGTH, RECORD, RequestRecord
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics
from vllama_pool.router.upstream.interface import ConnectionLost
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


ARRIVAL = StepClock().monotonic_ns()
"""Of the first request of a new clock."""
CHAT = next(operation for operation in operations(StepClock()) if operation.name == "chat")


class Echo:
    """A translator that passes bytes on. "!" completes the answer, "#" is an error event."""

    ready = begun = True
    progress = 0
    cut_off = False

    def __init__(self, *, stream: bool = True) -> None:
        self.done = False
        self._stream = stream
        self._whole = b""
        self.failure: StreamFailure | None = None
        self.usage = Usage(3, 7, "stop")

    def feed(self, data: bytes) -> bytes:
        if data == b"#":
            self.failure = StreamFailure(500, "engine died")
            return b""
        self.done = self.done or b"!" in data
        if self._stream:
            return data
        self.ready = self.done
        self._whole += data
        return b""

    def finish(self) -> bytes:
        return self._whole + b"<end>" if self.done else self.fail("cut short")

    def fail(self, text: str) -> bytes:
        return b"<error: " + text.encode() + b">"


class Client(FakeClient):
    """A client that stays connected until the test calls `disconnect`."""

    def __init__(self, *messages: Message) -> None:
        super().__init__(*messages)
        self._gone = asyncio.Event()
        self.signal: DisconnectSignal | None = None

    async def receive(self) -> Message:
        if not self.unread:
            await self._gone.wait()
            return DISCONNECT
        return await super().receive()

    def disconnect(self) -> None:
        self._gone.set()
        if self.signal is not None:
            self.signal.fire()


HANGS: list[Step] = [b"hi ", Hang()]
"""The steps of a response that begins and does not end."""


class Router:
    """A handler over one worker "a" that serves "m". The worker's stream is the client's."""

    def __init__(self, *steps: Step, signal: bool = False) -> None:
        """`signal`: the server reports disconnects by a signal, not only through `receive`."""
        self.pool = pool_of(Clock(), found("a", SERVED))
        self.records: list[RequestRecord] = []
        self.calls: list[ForwardRequest] = []
        self.expiry = ExpiryTracker(300)
        self.decisions = Decisions(10)
        self.stalls = StallWatch()
        self.upstream = Upstream({"a": [FakeResponse(steps)]})
        shared = shared_by_requests(self.upstream, self.pool, self.stalls, StepClock())
        self.forwarder = Forwarder(shared)
        self.begin_error: Exception | None = None
        self.operation = dataclasses.replace(
            CHAT, translator=lambda request, *_: Echo(stream=request.stream), adapt=None
        )
        self.signal = DisconnectSignal() if signal else None
        self.grant: Grant | None = None
        routes = LiveRoutes(RoutingTable(), lambda table, _: ModelRoutes(table, random.Random(1)))
        self.names = RecentNames(lambda: 0)
        self.handler = InferenceHandler(
            routes=routes,
            pool=self.pool,
            begin=self._begin,
            clock=StepClock(),
            expiry=self.expiry,
            names=self.names,
            decisions=self.decisions,
            shadows=Shadows(shared.upstream, routes, random.Random(1), ShadowMetrics()),
            body_limit=1000,
        )

    def _begin(
        self, call: ForwardRequest, record: RequestRecord, client: ClientWriter, on_answer: Callable[[], None]
    ) -> InFlight:
        self.calls.append(call)
        if self.begin_error is not None:
            raise self.begin_error
        return self.forwarder.begin(call, record, client, on_answer)

    async def handle(self, client: Client, **headers: str) -> None:
        scope = http_scope("POST", "/api/chat", **headers)
        if self.signal is not None:
            scope[SIGNAL] = client.signal = self.signal
        if self.grant is not None:
            scope[GRANT] = self.grant
        self.records.append(scope[RECORD])
        await self.handler.handle(self.operation, scope, client.receive, client.send)

    async def respond(self, **fields: Any) -> Client:
        """Handle one request to its end and check that nothing leaks."""
        client = Client(chat(**fields))
        await self.handle(client)
        self.assert_idle()
        return client

    async def stream(self, *, until: Callable[[FakeExchange, Client], object]) -> Client:
        """Start a streamed request, run `until` once its response has begun, and wait for its end."""
        client = Client(chat())
        task = asyncio.create_task(self.handle(client))
        await auntil(lambda: bool(client.received), 5, "a relayed response")
        until(self.upstream.exchanges[0], client)
        await task
        self.assert_idle()
        return client

    @property
    def record(self) -> RequestRecord:
        (record,) = self.records
        return record

    def assert_idle(self) -> None:
        """Lease, connection, admission and stall watch are released."""
        assert self.pool.in_flight == 0
        assert all(exchange.released for exchange in self.upstream.exchanges)
        assert repr(self.forwarder) == "<Forwarder 0 waiting, 0 in flight>"
        assert repr(self.stalls) == "<StallWatch 0 watched>"
        assert self.expiry.uses().running == ()


def chat(**fields: Any) -> Message:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return body_part(json.dumps(body).encode(), more=False)


async def test_a_streamed_answer_is_relayed_and_recorded_as_complete() -> None:
    router = Router(b"hi ", b"there!")
    client = await router.respond()
    assert (client.status, client.headers) == (200, {b"content-type": b"application/x-ndjson"})
    assert client.body == b"hi there!<end>"
    assert [message["more_body"] for message in client.received[1:]] == [True, False]
    record = router.record
    assert (record.id, record.operation, record.client) == ("id-1", "chat", "anna")
    assert (record.status, record.outcome, record.stream) == (200, "complete", True)
    assert (record.prompt_tokens, record.completion_tokens, record.done_reason) == (3, 7, "stop")
    assert record.first_ms > 0


async def test_a_whole_answer_is_one_response_even_if_the_workers_response_does_not_end() -> None:
    router = Router(b"hi ", b"!", Hang())
    client = await router.respond(stream=False)
    assert (client.status, client.body) == (200, b"hi !<end>")
    assert client.headers == {b"content-type": b"application/json; charset=utf-8", b"content-length": b"9"}
    assert (router.record.outcome, router.record.stream) == ("complete", False)
    assert router.record.first_ms > 0
    assert router.upstream.exchanges[0].finished
    assert worker_in(router.pool, "a").is_available(1060)


async def test_a_worker_lost_in_mid_stream_leaves_one_error_line_and_becomes_suspect() -> None:
    router = Router(b"hi ", ConnectionLost("reset"))
    client = await router.respond()
    assert client.status == 200
    assert client.body.startswith(b"hi <error: the worker was lost")
    assert router.record.outcome == "lost"
    assert worker_in(router.pool, "a").is_suspect(1060)


async def test_the_prompt_is_not_kept_while_the_answer_streams() -> None:
    router, made = Router(*HANGS), list[Any]()
    operation = router.operation

    def decode(body: bytes) -> Any:
        made.extend((body, operation.decode(body)))
        return made[-1]

    def prepare(*arguments: Any) -> Any:
        made.append(operation.prepare(*arguments))
        return made[-1]

    router.operation = dataclasses.replace(operation, decode=decode, prepare=prepare)
    references: list[int] = []

    def count(_: FakeExchange, client: Client) -> None:
        references.extend(map(sys.getrefcount, [*made, object()]))
        client.disconnect()

    await router.stream(until=count)
    body, request, step, nothing = references
    assert (body - 1, request - 1, step - 1) == (nothing,) * 3, "only `made` refers to them"


async def test_an_error_event_in_mid_stream_reaches_the_client_and_is_recorded_as_failed() -> None:
    router = Router(b"hi ", b"#")
    client = await router.respond()
    assert client.body == b"hi <error: engine died>"
    assert router.record.outcome == "failed"


@pytest.mark.parametrize("signal", [False, True])
async def test_a_disconnect_in_mid_stream_ends_the_request_and_does_not_blame_the_worker(signal: bool) -> None:
    router = Router(*HANGS, signal=signal)
    await router.stream(until=lambda _, client: client.disconnect())
    assert (router.record.outcome, router.record.completion_tokens) == ("client gone", 7)
    assert worker_in(router.pool, "a").is_available(1060)


@pytest.mark.parametrize("signal", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_while_a_worker_is_awaited_is_a_499_and_nothing_is_sent(signal: bool, stream: bool) -> None:
    router = Router(Hang(), signal=signal)
    client = Client(chat(stream=stream))
    task = asyncio.create_task(router.handle(client))
    await auntil(lambda: bool(router.upstream.exchanges), 5, "a request to the worker")
    client.disconnect()
    await task
    router.assert_idle()
    assert router.upstream.exchanges[0].closed == 1
    assert (router.record.status, router.record.outcome) == (499, "client gone")
    assert client.received == []


@pytest.mark.parametrize("signal", [False, True])
async def test_a_client_that_left_before_the_request_was_forwarded_is_a_499(signal: bool) -> None:
    router = Router(Hang(), signal=signal)
    client = Client(chat())
    client.disconnect()
    if router.signal is not None:
        router.signal.fire()
    await router.handle(client)
    router.assert_idle()
    assert (router.record.status, router.record.outcome) == (499, "client gone")
    assert client.received == []


@pytest.mark.parametrize("signal", [False, True])
async def test_the_watch_for_a_disconnect_ends_with_the_request(signal: bool) -> None:
    router = Router(b"!", signal=signal)
    client = await router.respond()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    client.disconnect()
    if router.signal is not None:
        assert router.signal.callback is None
    assert router.record.outcome == "complete"


async def test_a_disconnect_within_the_body_is_recorded_and_nothing_is_sent() -> None:
    router = Router()
    client = Client(body_part(b'{"model"'), DISCONNECT)
    await router.handle(client)
    assert (router.record.status, router.record.outcome, router.calls) == (499, "client gone", [])
    assert client.received == []


async def test_a_cancelled_request_stays_cancelled_and_leaves_nothing_in_flight() -> None:
    router = Router(*HANGS)
    client = Client(chat())
    task = asyncio.create_task(router.handle(client))
    await auntil(lambda: bool(client.received), 5, "a relayed response")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    router.assert_idle()


async def test_a_stalled_worker_ends_the_stream_with_an_error_line() -> None:
    router = Router(*HANGS)
    client = await router.stream(until=lambda exchange, _: router.stalls.check(exchange.last_heard + 121))
    assert b"<error: " in client.body
    assert router.record.outcome == "lost"


async def test_a_request_that_needs_no_worker_is_answered_without_one() -> None:
    router = Router()
    client = await router.respond(messages=[], stream=False)
    assert json.loads(client.body)["done_reason"] == "load"
    assert router.calls == []
    assert (router.record.status, router.record.outcome) == (200, "complete")


def preflighted(then: Callable[[bytes], DirectResponse | UpstreamRequest]) -> Operation[Any]:
    return dataclasses.replace(CHAT, prepare=lambda *_: PreflightRequest("/tokenize", b"?", then))


async def test_a_preflight_that_answers_is_sent_as_it_is() -> None:
    router = Router(b"3")
    reply = DirectResponse(b"{}", 202)
    router.operation = preflighted(lambda _: reply)
    client = await router.respond()
    assert (client.status, client.body) == (202, b"{}")
    assert (router.record.status, router.record.outcome) == (202, "complete")


@pytest.mark.parametrize("signal", [False, True])
async def test_a_client_that_leaves_while_a_direct_response_is_sent_does_not_cancel_it(signal: bool) -> None:
    router = Router(b"3", signal=signal)
    router.operation = preflighted(lambda _: DirectResponse(b"{}"))

    class Leaving(Client):
        async def send(self, message: Message) -> None:
            self.disconnect()
            for _ in range(3):
                await asyncio.sleep(0)
            await super().send(message)

    await router.handle(Leaving(chat()))
    router.assert_idle()
    assert (router.record.status, router.record.outcome) == (200, "complete")


async def test_a_client_error_becomes_a_response_and_is_recorded_as_refused() -> None:
    router = Router()
    router.begin_error = ServerBusy("busy", retry_after=1)
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


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "Multipart/Form-Data", "application/json", ""])
async def test_a_form_is_decoded_with_its_content_type_where_an_operation_takes_forms(kind: str) -> None:
    router = Router(b"hi!")
    decoded: list[str] = []

    def decode_form(content_type: str, body: bytes) -> Any:
        decoded.append(content_type)
        return CHAT.decode(body)

    router.operation = dataclasses.replace(router.operation, decode_form=decode_form)
    client = Client(chat())
    await router.handle(client, content_type=kind)
    assert client.status == 200
    assert decoded == ([kind] if kind.lower().startswith("multipart") else [])


async def test_an_unexpected_exception_is_raised_and_leaves_nothing_in_flight() -> None:
    router = Router()

    def prepare(*_: Any) -> UpstreamRequest:
        raise RuntimeError("a bug")

    router.operation = dataclasses.replace(CHAT, prepare=prepare)
    with pytest.raises(RuntimeError):
        await router.respond()
    router.assert_idle()


async def test_the_forward_request_carries_size_and_time_of_arrival_and_the_workers_the_id() -> None:
    router = Router(b"!")
    message = chat(stream=False)
    client = Client(message)
    await router.handle(client)
    (call,) = router.calls
    assert (call.decision.size, call.operation.name) == (len(message["body"]), "chat")
    assert router.upstream.request_ids == ["id-1"]
    assert call.decision.arrived > 0
    assert call.resolution.model == "m"


@pytest.mark.parametrize("fails", [False, True])
async def test_keep_alive_counts_from_the_end_of_the_request_also_if_it_fails(fails: bool) -> None:
    router = Router(b"!")
    if fails:
        router.begin_error = ServerBusy("busy")
    assert not router.expiry.lives("m:latest", 0)
    await router.respond(stream=False, keep_alive="10s")
    use = router.expiry.uses().last["m:latest"]
    assert use.at > ARRIVAL
    assert router.expiry.expires("m:latest", use.at, use.offset) == use.at + use.offset + 10 * 10**9


async def test_a_use_is_noted_before_the_client_has_its_whole_answer() -> None:
    """The client's next request may be for /api/ps, in any process."""
    router = Router(b"!")
    running: list[tuple[str, ...]] = []

    class Asking(Client):
        async def send(self, message: Message) -> None:
            running.append(router.expiry.uses().running)
            await super().send(message)

    await router.handle(Asking(chat(stream=False)))
    assert running
    assert not any(running)


async def test_the_decision_on_a_request_is_kept_with_its_route_and_attempts() -> None:
    router = Router(b"hi")
    await router.respond()
    (decision,) = router.decisions
    assert decision.record is router.record
    assert decision.resolution is not None
    assert decision.resolution.model == "m"
    assert [choice.worker for choice in decision.choices] == ["a"]
    assert decision.size > 0


async def test_the_decision_on_an_unknown_model_has_no_route() -> None:
    router = Router(b"hi")
    await router.respond(model="unheard-of")
    (decision,) = router.decisions
    assert (decision.resolution, decision.choices) == (None, ())
    assert decision.record.requested == "unheard-of"


async def test_a_model_that_the_key_may_not_use_is_answered_as_an_unknown_one() -> None:
    answers = []
    for models in ((), ("never-served",), ("m",)):
        router = Router(b"!")
        router.grant = Grant("anna", rights=rights(*models))
        client = await router.respond()
        answers.append((client.status, client.headers, client.body))
        assert router.record.model == ("m" if models == ("m",) else "")
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert answers[2][0] == 200


@pytest.mark.parametrize("fails", [False, True])
async def test_a_request_is_in_flight_for_its_key_until_it_ends(fails: bool) -> None:
    router = Router(*HANGS)
    router.grant = grant = Grant("anna")
    if fails:
        router.begin_error = ServerBusy("busy")
        await router.respond()
    else:
        seen: list[int] = []

        def end(exchange: FakeExchange, client: Client) -> None:
            seen.append(grant.usage.in_flight)
            client.disconnect()

        await router.stream(until=end)
        assert seen == [1]
    assert grant.usage.in_flight == 0


async def test_an_anonymous_request_is_counted_as_one() -> None:
    router = Router(*HANGS)
    seen: list[int] = []

    def end(exchange: FakeExchange, client: Client) -> None:
        seen.append(router.handler.anonymous.usage.in_flight)
        client.disconnect()

    await router.stream(until=end)
    assert (seen, router.handler.anonymous.usage.in_flight) == ([1], 0)

"""Handles inference: decode, resolve, check, acquire a worker's response, relay.

The client's response starts at the first content event; a later failure becomes an error line.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Outcome
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import ClientError, Lost, NoWorker
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker, RunningUse
from vllama_pool.router.protocol.ollama.not_found import unknown_model
from vllama_pool.router.protocol.operation import Clock, DirectResponse, Operation
from vllama_pool.router.protocol.vllm.errors import classify_stream_failure
from vllama_pool.router.proxy.attempt import WorkerResponse
from vllama_pool.router.proxy.forward import WORKER_LOST, ForwardRequest
from vllama_pool.router.proxy.relay import Relay, RelayOutcome
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.routing.resolve import ModelRoutes, Resolution, UnknownModel
from vllama_pool.router.server.asgi import (
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    decode_body,
    read_body,
    send_error,
    send_response,
)
from vllama_pool.router.server.connection_lifetime import end_at_half_close
from vllama_pool.router.server.disconnect import DisconnectWatcher
from vllama_pool.router.telemetry.request_record import (
    CLIENT_CLOSED_REQUEST,
    LOGGED_TEXT_LENGTH,
    RECORD,
    RequestObserver,
    RequestRecord,
)
from vllama_pool.router.upstream.interface import TransportError

END_TIMEOUT = 0.1
"""Seconds to wait for the response's terminating chunk after the last SSE event."""

Acquire = Callable[[ForwardRequest, RequestRecord], Awaitable[WorkerResponse | DirectResponse]]
"""The signature of `Forwarder.acquire`."""


@dataclass(frozen=True, slots=True)
class InferenceHandler:
    routes: Callable[[], ModelRoutes]
    pool: Pool
    acquire: Acquire
    stalls: StallWatch
    clock: Clock
    observer: RequestObserver
    expiry: ExpiryTracker
    body_limit: int
    """Bytes."""
    client_stall: float
    """Seconds until a client that reads nothing is dropped."""

    async def handle(self, operation: Operation[Any], scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and pass its record to the observer."""
        started = self.clock.monotonic_ns()
        record: RequestRecord = scope[RECORD]
        record.operation = operation.name
        try:
            await self._respond(operation, scope, receive, send, record)
        except ClientError as error:
            record.status, record.outcome = error.status, "refused"
            await send_error(send, error)
        except ClientDisconnected:
            record.status, record.outcome = CLIENT_CLOSED_REQUEST, "client gone"
        except asyncio.CancelledError:
            record.outcome = "cancelled"
            raise
        finally:
            if not record.outcome:  # an unexpected exception; the app's handler answers it
                record.status, record.outcome = record.status or 500, "error"
            record.total_ms = round((self.clock.monotonic_ns() - started) / 1e6, 3)
            self.observer.finished(record)

    async def _respond(
        self, operation: Operation[Any], scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        body = await read_body(receive, self.body_limit)
        arrived = self.clock.monotonic_ns()
        request = await decode_body(operation.decode, body)
        record.requested, record.stream = request.model[:LOGGED_TEXT_LENGTH], request.stream
        resolution = self._resolve(operation, request.model, record)
        if request.streams_answer:
            end_at_half_close(scope)
        direct = operation.check(request, resolution.info)
        used = resolution.listed, request.keep_alive, arrived, self.clock.time_ns()
        if direct is not None:
            self.expiry.touch(*used)
            await self._send_direct(direct, send, record)
            return
        use = self.expiry.begin(*used)
        try:
            call = ForwardRequest(operation, request, resolution, arrived, record.id, len(body))
            await self._forward(call, use, receive, send, record)
        finally:
            self._end(use)

    def _end(self, use: RunningUse) -> None:
        use.end(self.clock.monotonic_ns(), self.clock.time_ns())

    async def _forward(
        self, call: ForwardRequest, use: RunningUse, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        async with DisconnectWatcher(receive) as watcher:
            answer = await watcher.until_disconnect(self.acquire(call, record))
            record.first_ms = round((self.clock.monotonic_ns() - call.arrived) / 1e6, 3)
            if isinstance(answer, DirectResponse):
                self._end(use)
                await self._send_direct(answer, send, record)
                return
            record.status = 200
            content_type = call.operation.content_type(call.request)
            outcome: Outcome = Abandoned()
            try:
                if call.request.stream:
                    outcome = await self._stream(answer, content_type, send, watcher, record)
                else:
                    self._end(use)  # before the client has its answer, and may ask for /api/ps
                    outcome = await self._send_whole(answer, content_type, send, record)
            finally:
                usage = answer.translator.usage
                record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
                record.done_reason = usage.done_reason
                answer.close(outcome)

    async def _send_direct(self, direct: DirectResponse, send: Send, record: RequestRecord) -> None:
        record.status, record.outcome = direct.status, "complete"
        await send_response(send, direct.status, direct.body, content_type=direct.content_type)

    def _resolve(self, operation: Operation[Any], name: str, record: RequestRecord) -> Resolution:
        try:
            resolution = self.routes().resolve(name, self.pool)
        except UnknownModel:
            raise unknown_model(name, operation.not_found(name)) from None
        except NoWorker as error:
            record.model = error.model
            raise
        record.model = resolution.model
        return resolution

    async def _send_whole(
        self, answer: WorkerResponse, content_type: str, send: Send, record: RequestRecord
    ) -> Outcome:
        """Send a complete answer, and read the worker's response to its end so that its connection can be reused."""
        body = answer.first_bytes + answer.translator.finish()
        record.outcome = "complete"
        await send_response(send, 200, body, content_type=content_type)
        with contextlib.suppress(TimeoutError, TransportError):
            async with asyncio.timeout(END_TIMEOUT):
                while await answer.response.read():
                    pass
        return Completed(answer.translator.usage.completion_tokens)

    async def _stream(
        self, answer: WorkerResponse, content_type: str, send: Send, watcher: DisconnectWatcher, record: RequestRecord
    ) -> Outcome:
        headers = [(b"content-type", content_type.encode("latin-1"))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        relay = Relay(answer.response, answer.translator, send, client_stall=self.client_stall, lost_text=WORKER_LOST)
        watcher.on_disconnect(relay.client_gone)
        try:
            relay.start(answer.first_bytes)
            if not relay.ended.done():
                with self.stalls.watching(_WatchedRelay(relay, answer)):
                    await relay.ended
        finally:
            relay.stop()
        relay_outcome = relay.ended.result()
        record.outcome = str(relay_outcome)
        return _outcome(relay_outcome, answer)


class _WatchedRelay:
    """Adapts a relay to the stall watch."""

    begun = True

    def __init__(self, relay: Relay, answer: WorkerResponse) -> None:
        self._relay = relay
        self._answer = answer

    @property
    def last_progress(self) -> float:
        return self._relay.last_progress

    @property
    def worker_unresponsive(self) -> bool:
        return self._answer.worker_unresponsive

    @property
    def waits_for_client(self) -> bool:
        return self._relay.waits_for_client

    def abort(self, text: str) -> None:
        self._relay.abort(text)


def _outcome(relay_outcome: RelayOutcome, answer: WorkerResponse) -> Outcome:
    match relay_outcome:
        case RelayOutcome.COMPLETE:
            return Completed(answer.translator.usage.completion_tokens)
        case RelayOutcome.LOST:
            return Errored(Lost("lost in mid-stream"))
        case RelayOutcome.FAILED:
            failure = answer.translator.failure
            return Errored(classify_stream_failure(failure) if failure else Lost("failed in mid-stream"))
        case RelayOutcome.CLIENT_GONE | RelayOutcome.CLIENT_STALLED:
            return Abandoned()

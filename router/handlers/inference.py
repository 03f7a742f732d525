"""Handles inference: decode, resolve, check, forward.

The client's response starts at the first content event; a later failure becomes an error line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vllama_pool.router.admission.grant import GRANT, Grant
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import ClientError, NoWorker
from vllama_pool.router.handlers.trace import TRACE, Trace, TracedWriter, begin_trace
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker, RunningUse
from vllama_pool.router.protocol.ollama.not_found import unknown_model
from vllama_pool.router.protocol.openai.audio.form import is_form
from vllama_pool.router.protocol.operation import Clock, DirectResponse, Operation
from vllama_pool.router.proxy.client_writer import ClientWriter
from vllama_pool.router.proxy.fallback import first_able
from vllama_pool.router.proxy.forward import Begin
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.in_flight import ClientGone, InFlight
from vllama_pool.router.proxy.shadow import Shadows
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.resolution import Absent, Resolution, UnknownModel
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.server.asgi import (
    HEADERS,
    SCHEMA_WEIGHT,
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    decode_body,
    header,
    read_body,
    request_headers,
    send_error,
    send_response,
    take_body,
)
from vllama_pool.router.server.connection_lifetime import end_at_half_close
from vllama_pool.router.server.disconnect import on_disconnect
from vllama_pool.router.server.writer import response_writer
from vllama_pool.router.telemetry.decisions import Decision, Decisions
from vllama_pool.router.telemetry.recent_names import RecentNames
from vllama_pool.router.telemetry.request_record import (
    CLIENT_CLOSED_REQUEST,
    LOGGED_TEXT_LENGTH,
    RECORD,
    Fallback,
    RequestRecord,
)
from vllama_pool.workers.registry.record import ModelInfo

DECODED_INLINE = INLINE_BYTES // SCHEMA_WEIGHT
"""Bytes of a body that is decoded fast, even if it is one JSON schema."""


@dataclass(frozen=True, slots=True)
class InferenceHandler:
    routes: LiveRoutes
    pool: Pool
    begin: Begin
    clock: Clock
    expiry: ExpiryTracker
    decisions: Decisions
    names: RecentNames
    shadows: Shadows
    body_limit: int
    """Bytes."""
    note_absent: Callable[[str], None] = lambda model: None
    """Called for a request whose model has no worker, so that a fallback answers."""
    anonymous: Grant = field(default_factory=Grant)
    """Of requests without an API key."""
    traces: bool = False
    """Add the headers of a trace to all responses."""

    async def handle(self, operation: Operation[Any], scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and fill in its record."""
        record: RequestRecord = scope[RECORD]
        record.operation = operation.name
        grant: Grant = scope.get(GRANT, self.anonymous)
        trace = None
        if self.traces or TRACE in scope[HEADERS]:
            trace = begin_trace(scope, record, always=self.traces)
        try:
            body = take_body(scope)
            if body is None:
                body = await read_body(receive, self.body_limit)
            arrived = self.clock.monotonic_ns()
            decode = operation.decode if operation.decode_form is None else _form_decoder(operation, scope)
            request = decode(body) if len(body) <= DECODED_INLINE else await decode_body(decode, body)
            record.requested, record.stream = request.model[:LOGGED_TEXT_LENGTH], request.stream
            call, direct = self._route(operation, request, scope, Decision(record, arrived, len(body)), grant, trace)
            use = self.expiry.begin(call.resolution.listed, request.keep_alive, arrived, self.clock.time_ns())
            del request, body  # the prompt, which `call` forgets when the response begins
            try:
                if direct is None:
                    in_flight, client_gone = self._begin(call, use, scope, send, trace)
                    stop_watching = on_disconnect(scope, receive, client_gone)
                    try:
                        direct = await in_flight.run()
                    finally:
                        stop_watching()
                        in_flight.close()
                        grant.usage.in_flight -= 1
            finally:
                if use.model is not None:
                    self._end(use)  # before the client has a direct response, and may ask for /api/ps
            if direct is not None:
                record.status, record.outcome = direct.status, "complete"
                if record.attempts:
                    record.first_ms = (self.clock.monotonic_ns() - arrived) // 1000 / 1000
                if trace is not None:
                    trace.add_headers()
                await send_response(send, direct.status, direct.body, content_type=direct.content_type)
        except ClientError as error:
            record.status, record.outcome = error.status, "refused"
            if trace is not None:
                self._trace_error(trace, error, record)
            await send_error(send, error, operation.path, record.id)
        except (ClientDisconnected, ClientGone):
            record.status, record.outcome = CLIENT_CLOSED_REQUEST, "client gone"

    def _route(
        self,
        operation: Operation[Any],
        request: Any,
        scope: Scope,
        decision: Decision,
        grant: Grant,
        trace: Trace | None,
    ) -> tuple[ForwardRequest, DirectResponse | None]:
        """Resolve the request's model and check it. Return the request, and the response if it needs no worker.

        Raises ClientError.
        """
        record = decision.record
        self.decisions.add(decision)
        waits = False
        try:
            resolution = self.routes.now.resolve(request.model, self.pool, grant.rights)
        except UnknownModel as error:
            raise unknown_model(error.name, operation.not_found(error.name)) from None
        except Absent as error:
            resolution, waits = error.resolution, True
        except NoWorker as error:
            record.model = error.model
            raise
        asked = resolution if resolution.asked is None else resolution.asked.resolution
        decision.resolution = asked
        record.model = asked.model
        if trace is not None:
            trace.rights, trace.rule = grant.rights, asked.rule
        asker: Asker | None = None
        if resolution.needs_asker:
            asker = Asker(request, request_headers(scope), key=record.client, client=record.address)
            resolution = _draw(resolution, asker, decision)
        if request.streams_answer:
            end_at_half_close(scope)
        if waits:
            direct = check_without_worker(operation, request, resolution)
        elif resolution.asked is None:
            direct = operation.check(request, resolution.info, resolution.defaults)
        else:
            resolution, direct = first_able(operation, request, resolution, asker)
            self.note_absent(asked.model)
            _note_fallback(resolution, record)
        self.names.note(record.requested, decision.arrived)
        return ForwardRequest(operation, request, resolution, decision, grant, asker), direct

    def _begin(
        self, call: ForwardRequest, use: RunningUse, scope: Scope, send: Send, trace: Trace | None
    ) -> tuple[InFlight, Callable[[], None]]:
        """Return the request to run, and the function to call if its client disconnects."""
        writer: ClientWriter = response_writer(scope, send)
        if trace is not None:
            writer = TracedWriter(writer, trace)
        in_flight = self.begin(call, call.decision.record, writer, partial(self._end, use))
        call.grant.usage.in_flight += 1
        rule = call.resolution.rule
        if rule is not None and rule.shadow is not None:
            return in_flight, self.shadows.follow(in_flight).client_gone
        return in_flight, in_flight.client_gone

    def _trace_error(self, trace: Trace, error: ClientError, record: RequestRecord) -> None:
        if isinstance(error, NoWorker) and trace.rule is None:
            trace.rule = self._rule(record.requested)
        trace.add_headers()

    def _end(self, use: RunningUse) -> None:
        use.end(self.clock.monotonic_ns())

    def _rule(self, name: str) -> Rule | None:
        match = self.routes.now.rules.find(name)
        return match.rule if match is not None else None


def check_without_worker(operation: Operation[Any], request: Any, resolution: Resolution) -> DirectResponse | None:
    """Check a request that waits for its model's first worker. Return the answer to an unload.

    Nothing is known of a model that no worker has served yet: the request is then checked when one joins. A load waits,
    too: its answer says that the model can serve. Raises ClientError.
    """
    info = resolution.known_info
    try:
        direct = operation.check(request, info or ModelInfo(name=resolution.model), resolution.defaults)
    except ClientError:
        if info is not None:
            raise
        return None
    return direct if request.keep_alive == 0 else None


def _note_fallback(resolution: Resolution, record: RequestRecord) -> None:
    if resolution.asked is not None:
        record.fallbacks = (Fallback(resolution.asked.reason, resolution.model),)


def _draw(resolution: Resolution, asker: Asker, decision: Decision) -> Resolution:
    """Put the weighted targets in the order for this asker."""
    decision.identity = resolution.identity(asker)
    drawn = resolution.drawn(decision.identity)
    if drawn.asked is None:
        decision.resolution = drawn
    return drawn


def _form_decoder(operation: Operation[Any], scope: Scope) -> Callable[[bytes], Any]:
    """Return the decoder for the request's Content-Type."""
    content_type = header(scope, b"content-type") or ""
    if operation.decode_form is None or not is_form(content_type):
        return operation.decode
    return partial(operation.decode_form, content_type)

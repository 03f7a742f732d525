"""The outermost ASGI app: access control, request ids and their response headers, and the record of each request.

Handlers find the `RequestRecord` as `vllama.record` in the scope. Its `client` is empty for anonymous requests.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable

from vllama_pool.router.server.access import Access, AccessRequest, EarlyResponse
from vllama_pool.router.server.asgi import App, Receive, Scope, Send, header, send_and_drain
from vllama_pool.router.server.paths import clean_path
from vllama_pool.router.server.refusal import ON_REFUSAL, Refusal
from vllama_pool.router.server.writer import WRITER, ResponseWriter, SendWriter
from vllama_pool.router.telemetry.request_record import (
    CLIENT_CLOSED_REQUEST,
    LOGGED_TEXT_LENGTH,
    RECORD,
    RequestObserver,
    RequestRecord,
)

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Gate:
    """Wraps an ASGI app. Lifespan events pass through; their state lets the HTTP protocol report its refusals."""

    def __init__(
        self,
        app: App,
        access: Access,
        observer: RequestObserver,
        on_refusal: Callable[[Refusal], None],
        clock: Callable[[], int],
    ) -> None:
        """`observer` receives every request, `on_refusal` each one that access control refuses. `clock` returns
        monotonic nanoseconds."""
        self.app = app
        self._access = access
        self._observer = observer
        self._on_refusal = on_refusal
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" and "state" in scope:
                scope["state"][ON_REFUSAL] = self._on_refusal
            await self.app(scope, receive, send)
            return
        started = self._clock()
        path = scope["path"] = clean_path(scope["path"])  # first, so that all rules below see one spelling
        sent_id, request = header(scope, REQUEST_ID), AccessRequest.from_scope(scope)
        scope[RECORD] = record = RequestRecord(
            id=choose_request_id(sent_id),
            method=request.method[:LOGGED_TEXT_LENGTH],
            path=path[:LOGGED_TEXT_LENGTH],
            address=request.client or "",
        )
        writer: ResponseWriter = scope.get(WRITER) or SendWriter(send)
        scope[WRITER] = writer
        raised = True
        try:
            await self._respond(request, sent_id, record, writer, scope, receive)
            raised = False
        except asyncio.CancelledError:
            record.outcome = record.outcome or "cancelled"
            raise
        finally:
            record.status = writer.status or record.status
            if not record.outcome:
                record.status = record.status or 500  # the server's, for an app without a response
                record.outcome = "error" if raised else outcome(record.status)
            record.total_ms = record.total_ms or round((self._clock() - started) / 1e6, 3)
            self._observer.finished(record)

    def _respond(
        self,
        request: AccessRequest,
        sent_id: str | None,
        record: RequestRecord,
        writer: ResponseWriter,
        scope: Scope,
        receive: Receive,
    ) -> Awaitable[None]:
        decision = self._access.decide(request)
        id_headers = [(REQUEST_ID, record.id.encode())] if sent_id is not None else []
        writer.extra_headers = [*id_headers, *decision.headers]
        if isinstance(decision, EarlyResponse):
            record.status = decision.status
            if decision.refusal is not None:
                record.reason = decision.refusal.reason
                self._on_refusal(decision.refusal)
            return send_and_drain(scope, receive, writer.send, decision.status, decision.body, content_type="")
        record.client = decision.key_name
        return self.app(scope, receive, writer.send)


def outcome(status: int) -> str:
    """Return the outcome of a response that was sent completely."""
    if status < 400:
        return "complete"
    if status == CLIENT_CLOSED_REQUEST:
        return "client gone"
    return "error" if status == 500 else "refused"


def choose_request_id(sent_id: str | None) -> str:
    """Return the client's X-Request-Id if it is safe in logs and headers, else a new id."""
    return sent_id if sent_id and _SAFE_ID.match(sent_id) else secrets.token_hex(8)

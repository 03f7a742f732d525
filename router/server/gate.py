"""The outermost ASGI app: access control, request ids and their response headers, and the record of each request.

Handlers find the `RequestRecord` as `vllama.record` in the scope. Its `client` is empty for anonymous requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vllama_pool.router.admission.grant import GRANT
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.access import Access, AccessDecisions, Allowed, EarlyResponse
from vllama_pool.router.server.asgi import (
    INTERNAL_ERROR,
    JSON,
    App,
    Receive,
    Scope,
    Send,
    request_headers,
    send_and_drain,
    send_response,
)
from vllama_pool.router.server.paths import clean_path
from vllama_pool.router.server.refusal import ON_REFUSAL, Refusal
from vllama_pool.router.server.request_ids import REQUEST_ID, RequestIds, id_headers
from vllama_pool.router.server.writer import WRITER, response_writer
from vllama_pool.router.telemetry.request_record import (
    CLIENT_CLOSED_REQUEST,
    LOGGED_TEXT_LENGTH,
    RECORD,
    RequestRecord,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observers:
    """Called for requests, in this order. None may block or raise."""

    finished: Callable[[RequestRecord], None]
    """For every request."""
    worked: Callable[[RequestRecord], None]
    """For each request for workers."""
    on_refusal: Callable[[Refusal], None]
    """For each one that access control refuses."""


class Gate:
    """Wraps an ASGI app. Lifespan events pass through; their state lets the HTTP protocol report its refusals."""

    def __init__(
        self,
        app: App,
        access: Access,
        observers: Observers,
        clock: Callable[[], int],
        connection_state: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """`clock` returns monotonic nanoseconds. `connection_state`: for the HTTP protocol."""
        self.app = app
        self._decisions = AccessDecisions(access)
        self._finished = observers.finished
        self._worked = observers.worked
        self._on_refusal = observers.on_refusal
        self._clock = clock
        self._connection_state = connection_state
        self._ids = RequestIds()

    def use(self, access: Access) -> None:
        """Decide on all further requests by `access`. Those that were admitted go on."""
        self._decisions = AccessDecisions(access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" and "state" in scope:
                scope["state"][ON_REFUSAL] = self._on_refusal
                scope["state"].update(self._connection_state)
            await self.app(scope, receive, send)
            return
        started = self._clock()
        path = scope["path"] = clean_path(scope["path"])  # first, so that all rules below see one spelling
        client = scope.get("client")
        headers = request_headers(scope)
        sent_id = headers.get(REQUEST_ID)
        scope[RECORD] = record = RequestRecord(
            id=self._ids.choose(sent_id),
            method=scope["method"][:LOGGED_TEXT_LENGTH],
            path=path[:LOGGED_TEXT_LENGTH],
            address=client[0] if client else "",
        )
        writer = scope[WRITER] = response_writer(scope, send)
        raised = True
        try:
            decision = self._decisions.decide(scope, headers)
            if sent_id is not None or not path.startswith("/api/"):
                writer.extra_headers = (*id_headers(path, record.id, sent=sent_id is not None), *decision.headers)
            elif decision.headers:
                writer.extra_headers = decision.headers
            if isinstance(decision, Allowed):
                record.client = decision.key_name
                if (grant := decision.grant) is not None:
                    record.team = grant.team
                    scope[GRANT] = grant
                await self.app(scope, receive, writer.send)
            else:
                await self._send_early(decision, record, scope, receive, writer.send)
            raised = False
        except asyncio.CancelledError:
            record.outcome = record.outcome or "cancelled"
            raise
        except Exception as error:
            if writer.status:
                raise  # the server logs it
            _log.error("unexpected error while serving %r", record.path, exc_info=error)
            await send_response(writer.send, 500, error_body(path, 500, INTERNAL_ERROR, record.id))
        finally:
            del scope[WRITER]  # which may refer to the scope: no garbage to collect
            record.status = writer.status or record.status
            if not record.outcome:
                record.status = record.status or 500  # the server's, for an app without a response
                record.outcome = "error" if raised else outcome(record.status)
            record.total_ms = (self._clock() - started) // 1000 / 1000
            self._finished(record)
            if record.operation:
                self._worked(record)

    def _send_early(
        self, response: EarlyResponse, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        if response.refusal is not None:
            record.reason = response.refusal.reason
            self._on_refusal(response.refusal)
        body = response.body(scope["path"], record.id)
        return send_and_drain(scope, receive, send, response.status, body, content_type=JSON if body else "")


def outcome(status: int) -> str:
    """Return the outcome of a response that was sent completely."""
    if status < 400:
        return "complete"
    if status == CLIENT_CLOSED_REQUEST:
        return "client gone"
    return "error" if status == 500 else "refused"

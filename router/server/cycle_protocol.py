"""uvicorn's HTTP protocol with our cycle of request and response."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from vllama_pool.router.server.asgi import Scope
from vllama_pool.router.server.flow_control import FlowControl
from vllama_pool.router.server.http10 import for_http10
from vllama_pool.router.server.kernel_buffers import unread
from vllama_pool.router.server.request_cycle import RequestCycle

LAST_RESPONSE_SECONDS = 0.5
"""Time for a client to read the response after which its connection closes (Go's `rstAvoidanceDelay`)."""

UNREAD_PAUSE = 0.05
"""Seconds to read a request that has arrived at the end of a connection's time. It would be reset otherwise."""


class CycleProtocol(HttpToolsProtocol):
    """Makes a `RequestCycle` of each request. No upgrades, root path or limit of concurrency.

    uvicorn's `__init__` is not called. It sets so many attributes that Python would keep a dict for each connection,
    of 1.5 KiB: it shares the keys of 30 at most.
    """

    logger = logging.getLogger("uvicorn.error")
    ws_protocol_class = None
    root_path = ""
    scope: Any = None
    headers: Any = None
    cycle: Any = None
    flow: Any = None
    transport: Any = None
    timeout_keep_alive_task: asyncio.TimerHandle | None = None
    expect_100_continue = False
    keeps_alive = True
    """False once the process drains: responses then end the connection."""
    _refusal: bytes | None = None
    """The connection's last response, whole. It follows the responses to earlier requests."""
    _idle_until: float | None = None
    """Time at which the connection closes, unless a request arrives. None while a request is served."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.app = config.loaded_app
        self.asgi_version = config.asgi_version
        self.timeout_keep_alive = config.timeout_keep_alive
        self.loop = _loop or asyncio.get_event_loop()
        self.app_state = app_state
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.pipeline: Any = []
        """Cycles with their apps, the latest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = FlowControl(transport)
        self._idle_until = self.loop.time() + self.timeout_keep_alive

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = query
        keep_alive = self.keeps_alive and version != "1.0" and self.parser.should_keep_alive()
        cycle = RequestCycle(self.scope, self, keep_alive=keep_alive)
        app: Any = for_http10(self.app, cycle) if version == "1.0" else self.app
        previous, self.cycle = self.cycle, cycle
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.insert(0, (cycle, app))

    def begin_usual(self, scope: Scope, body: bytes | None) -> None:
        """Serve a request whose head the parser has not seen. `body`: the whole of it, None if it is incomplete."""
        scope["server"], scope["client"], scope["scheme"] = self.server, self.client, self.scheme
        self.expect_100_continue = False
        self.cycle = cycle = RequestCycle(scope, self, keep_alive=self.keeps_alive, body=body)
        self._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self.end_with(self._refusal)
        else:
            self._idle_until = self.loop.time() + self.timeout_keep_alive
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_handler()

    def end_with(self, response: bytes) -> None:
        """Write the last response, and close the connection when the client has had time to read it.

        A socket that is closed with unread bytes is reset, and the response may be lost with it. So what the client
        still sends is read and dropped for a moment, as in Go's server.
        """
        self._refusal = response
        transport = self.transport
        transport.write(response)
        if transport.can_write_eof():
            transport.write_eof()
        self.loop.call_later(LAST_RESPONSE_SECONDS, transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if its time is over. One timer serves many requests: to set one for each costs more."""
        self.timeout_keep_alive_task = None
        if self._idle_until is None:
            return
        remaining = self._idle_until - self.loop.time()
        if remaining > 0:
            self.timeout_keep_alive_task = self.loop.call_later(remaining, self.timeout_keep_alive_handler)
        elif unread(self.transport):  # in a process that was paused, timers come before what has arrived meanwhile
            self.timeout_keep_alive_task = self.loop.call_later(UNREAD_PAUSE, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_until = None

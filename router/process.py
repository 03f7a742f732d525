"""One router process: the application behind uvicorn on an inherited socket.

    python -m vllama_pool.router.start

Reads VLLAMA_LISTEN_FD, VLLAMA_PROCESS and VLLAMA_STATUS_FD besides the settings' variables. On SIGTERM it stops
accepting connections, after the settings' `drain_delay`, and lets running requests finish within `grace`. It then exits
with 0. On SIGHUP it reads the routing file.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from pydantic import ValidationError

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.routing.table import RoutingError
from vllama_pool.config.settings import RouterSettings, error_lines
from vllama_pool.router.app import create_app
from vllama_pool.router.descriptors import allow_many_descriptors
from vllama_pool.router.errors import STOPPING
from vllama_pool.router.instance import LISTEN_FD, PROCESS, RouterInstance
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.readiness import Readiness
from vllama_pool.router.reload import ReloadRequest
from vllama_pool.router.server.connection_lifetime import enable_keepalive
from vllama_pool.router.server.gate import Gate
from vllama_pool.router.server.http_protocol import BoundedProtocol, DrainingProtocol
from vllama_pool.workers.process.status import RESTARTED, ChildStatus, StatusPipe
from vllama_pool.workers.registry.record import WorkerState

FAILED = 3
"""Exit code."""
COLLECT_AFTER = 10_000
"""Objects made beyond those freed until Python looks for garbage. Python's 700 are reached by the requests in flight,
which are no garbage: the search takes 3 % of the time."""
LONGEST_IDLE = 10 * 365 * 86400
"""Seconds; uvicorn takes no infinite time-out."""


ENDING_TIME = 0.5
"""Seconds of the grace time in which the clients of requests that take too long get an error."""


class RouterServer(uvicorn.Server):
    """Reports ready and draining to the supervisor, and draining to `readiness`.

    After a stop signal it accepts for `drain_delay` seconds, and closes each connection after its next response. A
    second signal ends the delay.
    """

    def __init__(
        self, config: uvicorn.Config, status: StatusPipe, readiness: Readiness, drain_delay: float = 0.0
    ) -> None:
        super().__init__(config)
        self._status = status
        self._readiness = readiness
        self._drain_delay = drain_delay
        self._stops_at: float | None = None
        """Monotonic seconds; None before the first stop signal."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        collect_less_garbage()
        if self.started and not self.should_exit:
            self._status.send(ChildStatus(WorkerState.READY))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on every signal. The supervisor kills a process that takes too long.

        uvicorn would raise the signal again at the end, so that the process would not exit with 0.
        """
        if self._stops_at is None and self._drain_delay > 0 and self.started:
            self._stops_at = time.monotonic() + self._drain_delay
        else:
            self._stops_at = time.monotonic()
            self.should_exit = True
        self._readiness.drain()
        self._status.send(ChildStatus(WorkerState.DRAINING))

    async def on_tick(self, counter: int) -> bool:
        if self._stops_at is not None:
            self._drain_connections()
            self.should_exit = self.should_exit or time.monotonic() >= self._stops_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the requests in progress end, and those that take too long with an error of ours."""
        seconds = (self.config.timeout_graceful_shutdown or 0) - ENDING_TIME
        ending = asyncio.get_running_loop().call_later(seconds, self.end_requests)
        await super().shutdown(sockets)
        ending.cancel()

    def end_requests(self) -> None:
        """End the requests in progress, each with one error."""
        for task in tuple(self.server_state.tasks):
            task.cancel(msg=STOPPING)

    def _drain_connections(self) -> None:
        """Let this and later connections end with their next response."""
        self.config.http_protocol_class = DrainingProtocol
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.drain()


def collect_less_garbage() -> None:
    """Exclude the start's objects from garbage collection, whose full runs would pause streams for tens of
    milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


def make_server(
    app: Gate, settings: RouterSettings, status: StatusPipe, readiness: Readiness | None = None
) -> RouterServer:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,  # `configure_logging` has configured uvicorn's loggers
        server_header=False,
        proxy_headers=False,  # a header must not claim to be local, which would open /admin
        timeout_keep_alive=max(1, round(min(settings.idle_timeout, LONGEST_IDLE))),
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    return RouterServer(config, status, readiness or Readiness(), settings.drain_delay)


def main() -> None:
    """Serve until SIGTERM. Start errors go to stderr, one line each."""
    reload_request = ReloadRequest()
    signal.signal(signal.SIGHUP, reload_request)
    status = StatusPipe.from_environment(os.environ)
    listening = socket.socket(fileno=int(os.environ[LISTEN_FD]))
    enable_keepalive(listening)
    allow_many_descriptors()  # before the first thread
    try:
        settings = RouterSettings()
        configure_logging(settings.log_level)
        instance = RouterInstance.parse(os.environ[PROCESS], restarted=RESTARTED in os.environ)
        last_table = LastTable.from_environment(os.environ)
        readiness = Readiness()
        app = create_app(
            settings,
            instance=instance,
            reload_request=reload_request,
            last_table=last_table,
            readiness=readiness,
        )
    except ValidationError as error:
        for line in error_lines(error):
            sys.stderr.write(f"vllama: {line}\n")
        sys.exit(FAILED)
    except RoutingError as error:
        sys.stderr.write(f"vllama: {error}\n")
        sys.exit(FAILED)
    serving = make_server(app, settings, status, readiness)
    serving.run(sockets=[listening])
    if not serving.started:
        sys.exit(FAILED)

"""One router process, as `vllama serve` starts it: the application behind uvicorn on an inherited socket.

    python -m vllama_pool.router.process

The variables VLLAMA_LISTEN_FD, VLLAMA_PROCESS and VLLAMA_STATUS_FD carry what it inherits, beside the settings.

SIGTERM stops accepting, lets running answers finish within the settings' `grace`, and ends.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.routing.table import RoutingError
from vllama_pool.config.settings import RouterSettings, explain
from vllama_pool.router.app import create_app
from vllama_pool.router.instance import LISTEN_FD, PROCESS, RouterInstance
from vllama_pool.router.server.gate import Gate
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.workers.process.status import Status, StatusPipe
from vllama_pool.workers.registry.record import WorkerState

FAILED = 3
"""Exit code of a process that could not start; uvicorn's own is the same."""


class Server(uvicorn.Server):
    """uvicorn that tells the supervisor when requests are answered."""

    def __init__(self, config: uvicorn.Config, status: StatusPipe) -> None:
        super().__init__(config)
        self._status = status

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _spare_collector()
        if self.started and not self.should_exit:
            self._status.tell(Status(WorkerState.READY))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains. A second one need not be obeyed faster: the supervisor then kills."""
        self._status.tell(Status(WorkerState.DRAINING))
        super().handle_exit(signal.SIGTERM, frame)


def _spare_collector() -> None:
    """What is there by now stays for good. Each full collection would look at all of it, and stop every stream
    for tens of milliseconds: that was most of the 99th percentile of the time between tokens."""
    gc.collect()
    gc.freeze()


def server(app: Gate, settings: RouterSettings, status: StatusPipe) -> Server:
    """The application behind uvicorn, as fast as it goes and without its access log."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,  # `configure_logging` has configured uvicorn's loggers
        server_header=False,
        proxy_headers=False,  # who is on this machine decides about /admin: no header may claim it
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    return Server(config, status)


def main() -> None:
    """Serve until told to stop. What is wrong is one line on stderr, and the exit code not 0."""
    status = StatusPipe.from_environment(os.environ)
    listening = socket.socket(fileno=int(os.environ[LISTEN_FD]))
    try:
        settings = RouterSettings()
        configure_logging(settings.log_level)
        app = create_app(settings, instance=RouterInstance.parse(os.environ[PROCESS]))
    except ValidationError as error:
        for line in explain(error):
            sys.stderr.write(f"vllama: {line}\n")
        sys.exit(FAILED)
    except RoutingError as error:
        sys.stderr.write(f"vllama: {error}\n")
        sys.exit(FAILED)
    serving = server(app, settings, status)
    serving.run(sockets=[listening])
    if not serving.started:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()

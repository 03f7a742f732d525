"""A server with our HTTP protocol and a given app, on a real socket of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import uvicorn

from tests.support.fleet.live import Server
from tests.support.until import auntil
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.server.refusal import ON_REFUSAL, Refusal


@dataclass(frozen=True, slots=True)
class FrontDoor:
    port: int
    server: Server
    refusals: list[Refusal]


@contextlib.asynccontextmanager
async def front_door(app: Any, state: Mapping[str, object]) -> AsyncIterator[FrontDoor]:
    """`state`: of the lifespan, as the protocol finds it."""
    refusals: list[Refusal] = []

    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        scope["state"].update(state, **{ON_REFUSAL: refusals.append})
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        with_lifespan,
        http=BoundedProtocol,
        lifespan="on",
        log_level="error",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    try:
        await auntil(lambda: server.started, 20, "the server to start")
        yield FrontDoor(listening.getsockname()[1], server, refusals)
    finally:
        server.should_exit = True
        await task

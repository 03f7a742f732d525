"""A server that gives one answer to everything, whatever it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.fleet.live import serving


@asynccontextmanager
async def answering(status: int, body: bytes, content_type: bytes = b"application/json") -> AsyncIterator[str]:
    """Yields its base URL."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": body})

    async with serving(app) as url:
        yield url

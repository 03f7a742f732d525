"""Sends bytes to a router over a plain TCP connection."""

from __future__ import annotations

import asyncio

import httpx

from tests.support.fleet.live import Fleet


async def raw(running: Fleet, *sent: bytes) -> bytes:
    """Send these bytes and return everything received until the server closes the connection."""
    url = httpx.URL(running.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()

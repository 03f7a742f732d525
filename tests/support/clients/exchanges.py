"""Helpers for tests of an `interface.Client`: send, read, sink, and counts of connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vllama_pool.router.upstream.interface import Client, Endpoint, Response, TransportError


async def send(
    client: Client,
    endpoint: Endpoint,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    connect_timeout: float = 5.0,
) -> Response:
    """`Client.send` with defaults for a server on the loopback."""
    return await client.send(endpoint, method, path, headers=headers or {}, body=body, connect_timeout=connect_timeout)


async def read_all(response: Response) -> bytes:
    """Read to the end, then close."""
    body = bytearray()
    try:
        while chunk := await response.read():
            body += chunk
    finally:
        response.close()
    return bytes(body)


class RecordingSink:
    """A sink that keeps its data. Any call after the end fails the test."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended: asyncio.Future[TransportError | None] = asyncio.get_running_loop().create_future()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def data(self, chunk: bytes) -> None:
        assert chunk, "an empty chunk"
        assert not self.ended.done(), "data after the end"
        self.chunks.append(chunk)

    def eof(self) -> None:
        self.ended.set_result(None)  # raises at a second end

    def lost(self, error: TransportError) -> None:
        self.ended.set_result(error)


@dataclass(frozen=True, slots=True)
class Connections:
    """Numbers of a client's connections."""

    idle: int
    in_use: int
    connecting: int

    @property
    def open(self) -> int:
        return self.idle + self.in_use


def connections(client: Client) -> Connections:
    """Count an `UpstreamClient`'s connections, by its repr."""
    return Connections(*map(int, re.findall(r"\d+", repr(client))))

"""Helpers for tests of an `interface.Client`: sending, sinks, and counts of connections."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vllama_pool.router.upstream.interface import Client, Endpoint, Exchange, Sink, TransportError


class RecordingSink:
    """A sink that keeps its response. A call out of order fails the test."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the head."""
        self.headers: Mapping[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended: asyncio.Future[TransportError | None] = asyncio.get_running_loop().create_future()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        assert not self.status, "a second head"
        assert not self.ended.done(), "a head after the end"
        self.status, self.headers = status, headers

    def data(self, chunk: bytes) -> None:
        assert self.status, "data before the head"
        assert chunk, "an empty chunk"
        assert not self.ended.done(), "data after the end"
        self.chunks.append(chunk)

    def eof(self) -> None:
        assert self.status, "an end before the head"
        self.ended.set_result(None)  # raises at a second end

    def lost(self, error: TransportError) -> None:
        self.ended.set_result(error)


class PulledResponse(RecordingSink):
    """A response that the test reads at its own pace, from an unlimited buffer."""

    exchange: Exchange

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self._changed = asyncio.Event()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        super().head(status, headers)
        self._changed.set()

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        self._changed.set()

    def eof(self) -> None:
        super().eof()
        self._changed.set()

    def lost(self, error: TransportError) -> None:
        super().lost(error)
        self._changed.set()

    async def begun(self) -> None:
        """Wait for the head. Closes the exchange if cancelled. Raises TransportError."""
        while not self.status and not self.ended.done():
            await self._wait()
        if not self.status:
            self._raise_if_lost()

    async def read(self) -> bytes:
        """Return all body bytes that have arrived; b"" at the end. Closes the exchange if cancelled."""
        while self._read == len(self.chunks) and not self.ended.done():
            await self._wait()
        unread = b"".join(self.chunks[self._read :])
        self._read = len(self.chunks)
        if not unread:
            self._raise_if_lost()
        return unread

    def close(self) -> None:
        self.exchange.close()

    async def _wait(self) -> None:
        self._changed.clear()
        try:
            await self._changed.wait()
        except asyncio.CancelledError:
            self.close()
            raise

    def _raise_if_lost(self) -> None:
        error = self.ended.result()
        if error is not None:
            self.close()
            raise error


def begin(
    client: Client,
    endpoint: Endpoint,
    sink: Sink,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    connect_timeout: float = 30.0,
) -> Exchange:
    """`Client.send` with defaults for a server on the loopback."""
    return client.send(
        endpoint,
        method,
        path,
        headers=tuple((headers or {}).items()),
        request_id="r1",
        body=body,
        sink=sink,
        connect_timeout=connect_timeout,
    )


async def send(
    client: Client,
    endpoint: Endpoint,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    connect_timeout: float = 30.0,
) -> PulledResponse:
    """Send a request and wait for the head of its response. Closes the exchange if cancelled. Raises TransportError."""
    response = PulledResponse()
    response.exchange = begin(
        client, endpoint, response, method, path, headers=headers, body=body, connect_timeout=connect_timeout
    )
    await response.begun()
    return response


async def read_all(response: PulledResponse) -> bytes:
    """Read to the end, then close."""
    body = bytearray()
    try:
        while chunk := await response.read():
            body += chunk
    finally:
        response.close()
    return bytes(body)


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

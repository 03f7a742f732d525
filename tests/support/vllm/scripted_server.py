"""A TCP server that sends scripted bytes, for responses that vLLM never gives.

A script is one connection's steps: bytes to write, or coroutine functions of the `Peer`. Connections play the scripts
in order, then repeat the last. A connection closes at the end of its script.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from vllama_pool.router.upstream.interface import Endpoint


@dataclass(frozen=True)
class Received:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: ScriptedServer
    sent: int = 0
    client_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError  # asyncio and uvloop differ in what writing would do
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)


Step = bytes | Callable[[Peer], Awaitable[None]]
Script = Sequence[Step]


async def request(peer: Peer) -> None:
    """Read a request with its body."""
    head = await _head(peer)
    body = await peer.reader.readexactly(int(head.headers.get("content-length", "0")))
    peer.server.requests.append(Received(head.line, head.headers, body))


async def request_head(peer: Peer) -> None:
    """Read a request without its body."""
    peer.server.requests.append(await _head(peer))


async def hold(peer: Peer) -> None:
    """Read until the client closes the connection."""
    with contextlib.suppress(ConnectionError):
        while await peer.reader.read(65536):
            pass
    peer.client_closed.set()


async def reset(peer: Peer) -> None:
    raw: socket.socket = peer.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


async def cut(peer: Peer) -> None:
    """Close without TLS's close_notify."""
    peer.writer.transport.abort()


async def stop_listening(peer: Peer) -> None:
    """Refuse new connections from now on."""
    peer.server.stop_listening()


def apart(*parts: bytes) -> Callable[[Peer], Awaitable[None]]:
    """Send parts that the client, on the same event loop, reads one by one."""

    async def step(peer: Peer) -> None:
        for part in parts:
            await peer.send(part)
            for _ in range(3):  # the client reads in one of these turns
                await asyncio.sleep(0)

    return step


def bytewise(data: bytes) -> Callable[[Peer], Awaitable[None]]:
    return apart(*(data[i : i + 1] for i in range(len(data))))


def flood(total: int) -> Callable[[Peer], Awaitable[None]]:
    """Send `total` bytes as fast as possible; `Peer.sent` counts them."""

    async def step(peer: Peer) -> None:
        block = bytes(65536)
        for _ in range(total // len(block)):
            await peer.send(block)

    return step


def json_response(status: int, body: bytes) -> bytes:
    """Return a response with `Connection: close`."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def when(event: asyncio.Event) -> Callable[[Peer], Awaitable[None]]:
    """Wait for the test."""

    async def step(peer: Peer) -> None:
        await event.wait()

    return step


class ScriptedServer:
    """`async with ScriptedServer([request, b"HTTP/1.1 200 OK\\r\\n…"]) as server: … server.endpoint …`"""

    def __init__(self, *scripts: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.peers: list[Peer] = []
        """In the order of their connections."""
        self.requests: list[Received] = []
        self._scripts = scripts
        self._host = host
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, self._host, 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self._failure is not None and error is None:
            raise self._failure

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self._host, self.port)

    def stop_listening(self) -> None:
        """Refuse new connections. The open ones stay."""
        self._server.close()

    @property
    def closed_by_client(self) -> int:
        """Number of connections that the client has closed."""
        return sum(peer.client_closed.is_set() for peer in self.peers)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Its own task, because StreamReader's callback logs every cancelled handler as an error.
        task = asyncio.get_running_loop().create_task(self._play(Peer(reader, writer, self)))
        self._tasks.add(task)
        task.add_done_callback(self._played)

    async def _play(self, peer: Peer) -> None:
        self.peers.append(peer)
        try:
            for step in self._scripts[min(len(self.peers), len(self._scripts)) - 1]:
                if isinstance(step, bytes):
                    await peer.send(step)
                else:
                    await step(peer)
            peer.writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await peer.writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError):
            peer.client_closed.set()
        finally:
            peer.writer.transport.abort()

    def _played(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()


async def _head(peer: Peer) -> Received:
    text = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = text[:-4].split("\r\n")
    pairs = (name_value.split(": ", 1) for name_value in fields)
    return Received(line, {name.lower(): value for name, value in pairs}, b"")

"""A load balancer in front of several servers, with TLS if wanted: per connection, as a Kubernetes service, or per
request, as nginx.

    async with Balancer([one.port, two.port], per_request=True) as balancer:
        balancer.url
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_HEAD_END = b"\r\n\r\n"


def round_robin() -> Callable[[int], int]:
    """Return a choice of the next of n servers."""
    chosen = -1

    def choose(servers: int) -> int:
        nonlocal chosen
        chosen = (chosen + 1) % servers
        return chosen

    return choose


class Balancer:
    def __init__(
        self,
        ports: Sequence[int],
        *,
        per_request: bool = False,
        tls: ssl.SSLContext | None = None,
        choose: Callable[[int], int] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """`choose` returns the index of one of n servers. A server that refuses connections gives a 502."""
        self.ports = list(ports)
        self.host = host
        self.port = 0
        self._per_request = per_request
        self._tls = tls
        self._choose = choose or round_robin()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _request(reader) if self._per_request else b""
        try:
            upstream, sink = await asyncio.open_connection("127.0.0.1", self.ports[self._choose(len(self.ports))])
        except OSError:
            writer.write(BAD_GATEWAY)
            await writer.drain()
            return
        try:
            sink.write(request)
            async with asyncio.TaskGroup() as pumps:
                sending = None if request else pumps.create_task(_pump(reader, sink))
                await _pump(upstream, writer)
                if sending is not None:
                    sending.cancel()
        finally:
            sink.transport.abort()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Read one request. Ask the server to close the connection after its answer."""
    head = await reader.readuntil(_HEAD_END)
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    size = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    return b"\r\n".join([*lines, b"Connection: close"]) + _HEAD_END + await reader.readexactly(size)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(64 * 1024):
        sink.write(data)
        await sink.drain()

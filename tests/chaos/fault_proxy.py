"""A TCP proxy with faults that change while it runs: latency, jitter, rate, resets, half-closes, slices, blackhole.

async with FaultProxy(("127.0.0.1", 8000)) as proxy:
    proxy.to_client = Faults(slices=True)
    await proxy.blackhole()
    proxy.heal()
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

READ = 65536
"""Bytes per read."""
BACKLOG = 256
FILLERS = 8
"""Connections that fill the shortest queue of a listening socket, with some to spare."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: the close sends RST."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of one direction. They hold for open connections too, from the next read on."""

    latency: float = 0.0
    """Seconds that each read waits."""
    jitter: float = 0.0
    """Additional seconds, uniform from 0."""
    rate: float = 0.0
    """Bytes per second and connection; 0 for no limit."""
    slices: bool = False
    """Each byte in a packet of its own."""
    reset_after: int | None = None
    """Bytes of a connection after which both sides get RST."""
    half_close_after: int | None = None
    """Bytes of a connection after which the receiver gets FIN. The other direction goes on."""


class FaultProxy:
    """Listens on a loopback port that stays the same until it is closed."""

    def __init__(self, target: tuple[str, int], *, seed: int = 1) -> None:
        self.target = target
        self.to_client = Faults()
        self.to_server = Faults()
        self.accepted = 0
        """Connections so far."""
        self._random = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._listening = socket.socket()
        self._connections: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._fillers: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    async def __aenter__(self) -> FaultProxy:
        self._listening.setblocking(False)
        self._listening.bind(("127.0.0.1", 0))
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._connections, *filter(None, [self._accepting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._empty()
        self._listening.close()

    async def blackhole(self) -> None:
        """Pass nothing in either direction, without FIN or RST. New connections get no answer to their SYN."""
        self._open.clear()
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        # The kernel drops SYNs while the queue of connections that wait for accept() is full.
        self._listening.listen(0)
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._listening.getsockname())
            self._fillers.append(filler)

    def heal(self) -> None:
        """End the blackhole. Bytes that waited arrive late, as after a retransmission."""
        self._empty()
        self._open.set()
        if self._accepting is None:
            self._listen()

    def drop(self) -> None:
        """Reset all open connections."""
        for task in self._connections:
            task.cancel()

    def _listen(self) -> None:
        self._listening.listen(BACKLOG)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def _empty(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listening)
            self.accepted += 1
            task = loop.create_task(self._serve(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        writers = (writer, server_writer)
        for each in writers:
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, server_writer, lambda: self.to_server))
                pumps.create_task(self._pump(server_reader, writer, lambda: self.to_client))
        except (ExceptionGroup, asyncio.CancelledError):
            for each in writers:
                _reset(each)
        else:
            for each in writers:
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Callable[[], Faults]
    ) -> None:
        """Copy until the end. Raises OSError for a reset, ours included."""
        passed = 0
        while data := await reader.read(READ):
            await self._open.wait()
            now = faults()
            if now.latency or now.jitter:
                await asyncio.sleep(now.latency + self._random.uniform(0, now.jitter))
            for piece in _pieces(data, passed, now):
                writer.write(piece)
                await writer.drain()
                if now.rate:
                    await asyncio.sleep(len(piece) / now.rate)
                await self._open.wait()
            passed += len(data)
            if now.reset_after is not None and passed >= now.reset_after:
                raise ConnectionResetError
            if now.half_close_after is not None and passed >= now.half_close_after:
                break
        await self._open.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _pieces(data: bytes, passed: int, faults: Faults) -> Iterator[bytes]:
    """Yield what one read passes on."""
    limits = [limit for limit in (faults.reset_after, faults.half_close_after) if limit is not None]
    if limits:
        data = data[: max(0, min(limits) - passed)]
    size = 1 if faults.slices else max(1, int(faults.rate / 20)) if faults.rate else len(data)
    for start in range(0, len(data), size or 1):
        yield data[start : start + size]


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ValueError):  # uvloop's ValueError for a socket that is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()

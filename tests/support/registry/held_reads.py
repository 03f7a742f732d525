"""A registry's port whose answers to one router process are held back."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

ROUTER_ID = re.compile(rb"\$16\r\n([0-9a-f]{16})\r\n\$")
"""The argument of a poll that tells routers apart. Other commands have such an argument only at their end."""


class HeldReads:
    """Holds the answers to the polls of the first router process that polls."""

    def __init__(self, port: int) -> None:
        """`port` of the registry, on loopback. Its clients must end before `serving` does."""
        self.port = 0
        self.held = 0
        """Polls whose answers are or were held."""
        self.released = asyncio.Event()
        self._to = port
        self._router = b""
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HeldReads]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                self.released.set()
                await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._connections.add(task)
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._to)
        free = asyncio.Event()
        free.set()
        copying = (self._copy_commands(reader, upstream, free), self._copy_answers(upstream_reader, writer, free))
        await asyncio.gather(*copying, return_exceptions=True)
        for each in (writer, upstream):
            each.close()
            with contextlib.suppress(ConnectionError):
                await each.wait_closed()

    async def _copy_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, free: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if (found := ROUTER_ID.search(data)) and not self.released.is_set():
                    self._router = self._router or found[1]
                    if found[1] == self._router:
                        self.held += 1
                        free.clear()
                writer.write(data)
        finally:  # also after a reset, so that the other direction ends
            writer.close()

    async def _copy_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, free: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if not free.is_set():
                    await self.released.wait()
                writer.write(data)
        finally:
            writer.close()

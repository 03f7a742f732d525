"""A server that gives every command of a Redis client the same answer, for states that no Valkey can be put into."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def answering(answer: bytes, *, tls: ssl.SSLContext | None = None, greet: bool = False) -> AsyncIterator[int]:
    """Yield the port. `greet`: the answer is sent before any command, and the connection closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if greet:
                writer.write(answer)
            else:
                await _answer_commands(reader, writer, answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer_commands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    while line := await reader.readline():
        if not line.startswith(b"*"):
            writer.write(answer)
            continue
        for _ in range(int(line[1:])):
            size = int((await reader.readline())[1:])
            await reader.readexactly(size + 2)
        writer.write(answer)

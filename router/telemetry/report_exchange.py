"""Exchanges reports between the router processes of one `vllama serve`, over abstract Unix sockets.

Abstract sockets need no cleanup. Any user can bind one, so both ends check that the peer is this user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.telemetry.aggregate import ProcessReport, ProcessReports

TIMEOUT = 1.0
"""Seconds."""
_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""


class ReportExchange:
    def __init__(self, instance: RouterInstance, own_report: Callable[[], ProcessReport]) -> None:
        self._instance = instance
        self._own_report = own_report

    async def collect(self) -> ProcessReports:
        """Return the reports of this process and of those that answer in time."""
        instance = self._instance
        others = [index for index in range(instance.total) if index != instance.index]
        answers = await asyncio.gather(*(self._fetch(index) for index in others))
        received = {index: answer for index, answer in zip(others, answers, strict=True) if answer is not None}
        return ProcessReports(instance.total, {instance.index: self._own_report(), **received})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer the other processes within the context."""
        if self._instance.total == 1:
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(self._instance.address(self._instance.index))
            async with await asyncio.start_unix_server(self._serve, sock=listening):
                yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if _same_user(writer.get_extra_info("socket")):
                writer.write(msgspec.msgpack.encode(self._own_report()))
            writer.close()
            await writer.wait_closed()

    async def _fetch(self, index: int) -> ProcessReport | None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await asyncio.get_running_loop().sock_connect(sock, self._instance.address(index))
                    return await _read(sock) if _same_user(sock) else None
            except (OSError, TimeoutError, msgspec.MsgspecError):
                return None


async def _read(sock: socket.socket) -> ProcessReport:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        parts.append(part)
    return msgspec.msgpack.decode(b"".join(parts), type=ProcessReport)


def _same_user(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(raw)[1] == os.geteuid())

"""The router processes of one `vllama serve` ask each other for their reports, when ops asks one of them.

Each listens on a socket in Linux's abstract namespace: no file is left behind, whatever ends the process. Both
ends look at whose process the other is, for names in that namespace are anybody's to take.
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

PATIENCE = 1.0
"""Seconds that a sibling has to answer."""
_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: pid, uid, gid."""


class Siblings:
    """`reports` of all processes, as seen from one of them. `own` makes this one's."""

    def __init__(self, place: RouterInstance, own: Callable[[], ProcessReport]) -> None:
        self._place = place
        self._own = own

    async def reports(self) -> ProcessReports:
        """Those that do not answer in time are left out."""
        place = self._place
        others = [index for index in range(place.total) if index != place.index]
        answers = await asyncio.gather(*(self._ask(index) for index in others))
        found = {index: answer for index, answer in zip(others, answers, strict=True) if answer is not None}
        return ProcessReports(place.total, {place.index: self._own(), **found})

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer the others while this lasts."""
        if self._place.total == 1:
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(self._place.address(self._place.index))
            async with await asyncio.start_unix_server(self._answer, sock=listening):
                yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if _is_ours(writer.get_extra_info("socket")):
                writer.write(msgspec.msgpack.encode(self._own()))
            writer.close()
            await writer.wait_closed()

    async def _ask(self, index: int) -> ProcessReport | None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(PATIENCE):
                    await asyncio.get_running_loop().sock_connect(sock, self._place.address(index))
                    return await _read(sock) if _is_ours(sock) else None
            except (OSError, TimeoutError, msgspec.MsgspecError):
                return None


async def _read(sock: socket.socket) -> ProcessReport:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        parts.append(part)
    return msgspec.msgpack.decode(b"".join(parts), type=ProcessReport)


def _is_ours(sock: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(raw)[1] == os.geteuid())

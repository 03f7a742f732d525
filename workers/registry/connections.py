"""Connections that report why the server closed them.

A server that has too many clients, or refuses this one, says so and closes before it reads. redis-py then reports only
that it cannot write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as LostConnection


class _Reporting(AbstractConnection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        reader = self._reader
        try:
            await super().send_packed_command(command, check_health)
        except LostConnection as error:
            raise (_last_words(reader) if reader is not None else None) or error from error.__cause__


def _last_words(reader: asyncio.StreamReader) -> Exception | None:
    """Return the error that the server has sent. `read` would raise instead of returning what was received."""
    received = bytes(getattr(reader, "_buffer", b""))
    answer, end, _ = received.partition(b"\r\n")
    if not end or answer[:1] != b"-":
        return None
    error: Exception = BaseParser.parse_error(answer[1:].decode("utf-8", "replace"))  # type: ignore[no-untyped-call]
    return error


class TcpConnection(_Reporting, Connection):
    pass


class TlsConnection(_Reporting, SSLConnection):
    pass


class SocketConnection(_Reporting, UnixDomainSocketConnection):
    pass

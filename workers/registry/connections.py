"""Connections to the primary of the registry, wherever it is, that report why the server closed them.

A server that has too many clients, or refuses this one, says so and closes before it reads. redis-py then reports only
that it cannot write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis._parsers.base import BaseParser
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import AskError, MovedError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as LostConnection

from vllama_pool.config.redis_address import RedisAddress
from vllama_pool.workers.registry.primary import Locator


class _Reporting(AbstractConnection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        reader = self._reader
        try:
            await super().send_packed_command(command, check_health)
        except LostConnection as error:
            raise (_last_words(reader) if reader is not None else None) or error from error.__cause__
        except RuntimeError as error:  # uvloop's, for a connection that the server has just reset
            raise (_last_words(reader) if reader is not None else None) or LostConnection(str(error)) from error


def _last_words(reader: asyncio.StreamReader) -> Exception | None:
    """Return the error that the server has sent. `read` would raise instead of returning what was received."""
    received = bytes(getattr(reader, "_buffer", b""))
    answer, end, _ = received.partition(b"\r\n")
    if not end or answer[:1] != b"-":
        return None
    error: Exception = BaseParser.parse_error(answer[1:].decode("utf-8", "replace"))  # type: ignore[no-untyped-call]
    return error


class TcpConnection(_Reporting, Connection):
    def __init__(self, *, locator: Locator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    async def _connect(self) -> None:
        self.host, self.port = await self._locator.locate()
        await super()._connect()  # type: ignore[no-untyped-call]


class TlsConnection(_Reporting, SSLConnection):
    def __init__(self, *, locator: Locator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    async def _connect(self) -> None:
        self.host, self.port = await self._locator.locate()
        await super()._connect()  # type: ignore[no-untyped-call]


class SocketConnection(_Reporting, UnixDomainSocketConnection):
    pass


class RegistryPool(ConnectionPool):
    """Connections to one primary. All are replaced when one of them finds that it is lost or has moved."""

    def __init__(self, address: RedisAddress, locator: Locator | None, **options: Any) -> None:
        """`locator` is None for a Unix socket."""
        if locator is not None:
            options["locator"] = locator
        super().__init__(**options)
        self.address = address
        self.renewals = 0
        self._locator = locator
        self._renewed = 0

    def follow(self, error: Exception) -> bool:
        """Act on the failure of a command. Return True if it has not run, and the next connection may be to another.

        An old primary refuses a script at its first write, before it has changed anything.
        """
        if isinstance(error, MovedError):
            if self._locator is not None:
                self._locator.moved((str(error.host), error.port))
        elif isinstance(error, AskError) or (isinstance(error, ResponseError) and not _names_replica(error)):
            return False
        elif self._locator is not None:
            self._locator.lost()
        self.renewals += 1
        for connection in self._in_use_connections:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        return isinstance(error, ResponseError)

    async def get_connection(self, *command: Any, **options: Any) -> AbstractConnection:
        if self._renewed != self.renewals:
            self._renewed = self.renewals
            await self.disconnect(inuse_connections=False)
        connection: AbstractConnection = await super().get_connection(*command, **options)  # type: ignore[no-untyped-call]
        return connection


def _names_replica(error: ResponseError) -> bool:
    return isinstance(error, ReadOnlyError) or any(code in str(error) for code in ("READONLY", "MASTERDOWN"))

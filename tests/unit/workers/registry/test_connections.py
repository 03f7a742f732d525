"""Connections to the registry on uvloop, which the routers use."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError

from vllama_pool.workers.registry.client import connect
from vllama_pool.workers.registry.connections import TcpConnection


async def send_on_a_reset_connection() -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        assert isinstance(connection, TcpConnection)
        await connection._connect()
        assert connection._writer is not None
        connection._writer.transport.abort()
        try:
            await connection.send_packed_command([b"PING"], check_health=False)
        finally:
            await redis.aclose()


def test_a_connection_that_was_reset_is_a_lost_one() -> None:
    with pytest.raises(ConnectionError, match="closed"):
        uvloop.run(send_on_a_reset_connection())

"""The connection pool: which idle connection is acquired, and which are closed; and connects that are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients.exchanges import RecordingSink, begin, connections
from tests.support.clients.fake_transport import FakeTransport
from tests.support.garbage import watch_garbage
from tests.support.until import auntil
from vllama_pool.router.upstream.client import ConnectionPool, UpstreamClient
from vllama_pool.router.upstream.connection import UpstreamConnection
from vllama_pool.router.upstream.interface import Endpoint

WORKER = Endpoint("worker", 8100)
EXPIRED = -1.0
"""An idle expiry with which every idle connection has expired."""


def now() -> float:
    return asyncio.get_running_loop().time()


def opened(pool: ConnectionPool, endpoint: Endpoint = WORKER) -> tuple[UpstreamConnection, FakeTransport]:
    connection, transport = UpstreamConnection(endpoint, pool, 1.0), FakeTransport()
    connection.connection_made(transport)
    pool.add(connection)
    return connection, transport


async def test_the_newest_idle_connection_is_acquired_first() -> None:
    pool = ConnectionPool(600)
    (older, _), (newer, _) = opened(pool), opened(pool)
    pool.release(older)
    pool.release(newer)
    assert (pool.open, pool.idle) == (2, 2)
    assert [pool.acquire(WORKER, now()), pool.acquire(WORKER, now()), pool.acquire(WORKER, now())] == [
        newer,
        older,
        None,
    ]
    assert (pool.open, pool.idle) == (2, 0)
    pool.close()


@pytest.mark.parametrize("other", [Endpoint("worker", 8101), Endpoint("worker", 8100, authorization="Bearer k")])
async def test_a_connection_is_acquired_only_for_its_own_endpoint(other: Endpoint) -> None:
    pool = ConnectionPool(600)
    connection, _ = opened(pool)
    pool.release(connection)
    assert pool.acquire(other, now()) is None
    assert pool.acquire(WORKER, now()) is connection
    pool.close()


async def test_an_expired_connection_is_closed_instead_of_acquired() -> None:
    pool = ConnectionPool(EXPIRED)
    connection, transport = opened(pool)
    pool.release(connection)
    assert pool.acquire(WORKER, now()) is None
    assert transport.aborted
    pool.close()


async def test_a_connection_that_is_closing_is_not_acquired() -> None:
    pool = ConnectionPool(600)
    (usable, _), (closing, transport) = opened(pool), opened(pool)
    pool.release(usable)
    pool.release(closing)
    transport.abort()
    assert pool.acquire(WORKER, now()) is usable
    pool.close()


async def test_a_lost_connection_is_removed_and_reported_as_a_change() -> None:
    pool = ConnectionPool(600)
    connection, _ = opened(pool)
    pool.release(connection)
    pool.changed.clear()
    connection.connection_lost(None)
    assert pool.changed.is_set()
    assert (pool.open, pool.idle) == (0, 0)
    assert pool.acquire(WORKER, now()) is None
    pool.close()


async def test_close_aborts_idle_and_busy_connections() -> None:
    pool = ConnectionPool(600)
    (idle, idle_transport), (_, busy_transport) = opened(pool), opened(pool)
    pool.release(idle)
    pool.close()
    assert idle_transport.aborted
    assert busy_transport.aborted
    assert pool.idle == 0


async def test_a_connection_released_after_close_is_aborted() -> None:
    pool = ConnectionPool(600)
    connection, transport = opened(pool)
    pool.close()
    transport.aborted = False
    pool.release(connection)
    assert transport.aborted
    assert pool.idle == 0


async def test_a_cancelled_connect_leaves_no_garbage() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        resolving.set()
        return await asyncio.get_running_loop().create_future()

    resolving, client = asyncio.Event(), UpstreamClient(resolver=resolve)
    with watch_garbage() as garbage:
        exchange = begin(client, WORKER, RecordingSink(), "POST", body=b"x")
        await resolving.wait()
        exchange.close()
        del exchange
        await auntil(lambda: connections(client).connecting == 0)
    assert garbage == []

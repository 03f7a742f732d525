"""The fault proxy in front of an echo server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.fault_proxy import FaultProxy, Faults

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()) as running:
        yield running
    server.close()


async def opened(proxy: FaultProxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def answer(streams: Streams, data: bytes) -> bytes:
    """Send data, and read as many bytes."""
    reader, writer = streams
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), 30)


async def test_bytes_pass_unchanged_and_the_end_of_one_direction_passes_too(proxy: FaultProxy) -> None:
    reader, writer = await opened(proxy)
    data = bytes(range(256)) * 1000
    writer.write(data)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(-1), 30) == data
    assert proxy.accepted == 1
    writer.close()


async def test_slices_arrive_one_by_one(proxy: FaultProxy) -> None:
    proxy.to_client = Faults(slices=True, latency=0.01)
    reader, writer = await opened(proxy)
    writer.write(b"abc")
    assert await asyncio.wait_for(reader.readexactly(3), 30) == b"abc"
    writer.close()


async def test_latency_delays_each_direction_by_itself(proxy: FaultProxy) -> None:
    streams = await opened(proxy)
    await answer(streams, b"warm")
    proxy.to_client, proxy.to_server = Faults(latency=0.1), Faults(latency=0.1, jitter=0.01)
    start = time.monotonic()
    await answer(streams, b"x")
    assert time.monotonic() - start >= 0.2
    streams[1].close()


async def test_the_rate_bounds_bytes_per_second(proxy: FaultProxy) -> None:
    proxy.to_client = Faults(rate=1000)
    streams = await opened(proxy)
    start = time.monotonic()
    await answer(streams, bytes(200))
    assert time.monotonic() - start >= 0.15
    streams[1].close()


async def test_a_reset_comes_after_as_many_bytes(proxy: FaultProxy) -> None:
    proxy.to_client = Faults(reset_after=5)
    reader, writer = await opened(proxy)
    writer.write(b"0123456789")
    with pytest.raises(ConnectionResetError):  # it may overtake bytes that the receiver has not read
        await asyncio.wait_for(reader.readexactly(6), 30)
    writer.close()


async def test_a_half_close_ends_one_direction_only(proxy: FaultProxy) -> None:
    proxy.to_client = Faults(half_close_after=5)
    reader, writer = await opened(proxy)
    writer.write(b"0123456789")
    assert await asyncio.wait_for(reader.read(-1), 30) == b"01234"
    writer.write(b"the other direction still takes this")
    await asyncio.wait_for(writer.drain(), 30)
    writer.close()


async def test_a_blackhole_answers_no_connection_and_passes_no_byte_until_it_heals(proxy: FaultProxy) -> None:
    streams = await opened(proxy)
    await answer(streams, b"before")
    await proxy.blackhole()
    streams[1].write(b"during")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streams[0].read(1), 0.2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(opened(proxy), 0.3)
    proxy.heal()
    assert await asyncio.wait_for(streams[0].readexactly(6), 30) == b"during"
    fresh = await opened(proxy)
    assert await answer(fresh, b"after") == b"after"
    for _, writer in (streams, fresh):
        writer.close()


async def test_dropped_connections_are_reset(proxy: FaultProxy) -> None:
    reader, writer = await opened(proxy)
    await answer((reader, writer), b"x")
    proxy.drop()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 30)
    writer.close()


async def test_a_server_that_is_away_resets_the_client(unused_tcp_port: int) -> None:
    async with FaultProxy(("127.0.0.1", unused_tcp_port)) as proxy:
        reader, writer = await opened(proxy)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 30)
        writer.close()

"""A worker's name with several addresses, some of which are dead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.support.clients.exchanges import connections, read_all, send
from tests.support.vllm.scripted_server import ScriptedServer, request
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import ConnectFailed, Endpoint

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
DEAD = "127.0.0.77"
REFUSING = "127.0.0.78"


@pytest.fixture
def blackhole() -> Iterator[Callable[[int], None]]:
    """Call it with a port: the address DEAD then answers no SYN there, as its queue is full."""
    opened: list[socket.socket] = []

    def fill(port: int) -> None:
        listening = socket.socket()
        listening.bind((DEAD, port))
        listening.listen(0)
        opened.append(listening)
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect((DEAD, port))
            opened.append(one)

    yield fill
    for each in opened:
        each.close()


def client_of(*addresses: str) -> UpstreamClient:
    async def resolver(host: str, port: int) -> list[str]:
        return list(addresses)

    return UpstreamClient(resolver=resolver)


@pytest.mark.parametrize("address", [DEAD, REFUSING], ids=["silent", "refusing"])
async def test_a_live_address_behind_a_dead_one_is_reached_within_the_connect_timeout(
    address: str, blackhole: Callable[[int], None]
) -> None:
    client = client_of(address, "127.0.0.1")
    async with ScriptedServer(*[[request, ANSWER]] * 4) as server:
        blackhole(server.port)
        worker = Endpoint("worker.example", server.port)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await read_all(await send(client, worker, connect_timeout=4)) == b"ok"
        first = loop.time() - begun
        if address == DEAD:
            assert first > 1.9, "the dead address has its share of the time"
        later = []
        for _ in range(3):
            begun = loop.time()
            assert await read_all(await send(client, worker, connect_timeout=4)) == b"ok"
            later.append(loop.time() - begun)
        assert min(later) < 1.9, "the dead address is tried last"
        assert {each.headers["host"] for each in server.requests} == {f"worker.example:{server.port}"}
    await client.aclose()


async def test_addresses_that_are_all_dead_fail_within_the_connect_timeout(blackhole: Callable[[int], None]) -> None:
    client = client_of(DEAD, DEAD, REFUSING, DEAD)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        blackhole(port)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.6 s"):
            await send(client, Endpoint("worker.example", port), connect_timeout=0.6)
        assert 0.5 < loop.time() - begun < 20
    assert (connections(client).connecting, connections(client).open) == (0, 0)
    await client.aclose()


async def test_the_other_pinned_addresses_of_a_name_are_tried_too() -> None:
    client = UpstreamClient()
    async with ScriptedServer([request, ANSWER]) as server:
        pinned = Endpoint(REFUSING, server.port, server_name="worker.example", others=("127.0.0.1",))
        assert await read_all(await send(client, pinned)) == b"ok"
        assert server.requests[0].headers["host"] == f"worker.example:{server.port}"
    await client.aclose()


async def test_a_name_without_addresses_raises_connect_failed() -> None:
    client = client_of()
    with pytest.raises(ConnectFailed, match=r"worker\.example"):
        await send(client, Endpoint("worker.example", 80))
    await client.aclose()

"""Connections beyond a limit get a 503, and those within it notice nothing."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from tests.support.front_door import FrontDoor, front_door
from tests.support.until import auntil
from vllama_pool.router.server.asgi import send_response
from vllama_pool.router.server.connection_limits import BUSY, CONNECTIONS, ConnectionBounds, ConnectionLimits
from vllama_pool.router.server.refusal import Reason
from vllama_pool.router.telemetry.families import exposition

GET = b"GET /api/version HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send_response(send, 200, b"ok")


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes = GET) -> bytes:
        """Return the status of one request's response."""
        self._writer.write(request)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 30)
        if b" 200 " in head:
            await self._reader.readexactly(len(b"ok"))
        return head.split(b" ")[1]

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(), 30)

    def close(self) -> None:
        self._writer.close()


def shown(limits: ConnectionLimits) -> dict[str, float]:
    """Return the metrics of /metrics, by name and labels."""
    lines = [line.rsplit(" ", 1) for line in exposition(limits.families()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def connect(door: FrontDoor) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", door.port))


async def test_connections_beyond_the_total_get_503_until_one_closes() -> None:
    limits = ConnectionLimits(ConnectionBounds(total=3))
    async with front_door(app, {CONNECTIONS: limits}) as door:
        clients = [await connect(door) for _ in range(3)]
        assert [await client.ask() for client in clients] == [b"200"] * 3
        beyond = await connect(door)
        assert await beyond.ask() == b"503"
        assert json.loads(await beyond.rest()) == {"error": BUSY}
        assert [await client.ask() for client in clients] == [b"200"] * 3
        assert shown(limits) == {
            "vllama_client_connections": 3,
            'vllama_client_connections_refused_total{limit="total"}': 1,
            'vllama_client_connections_refused_total{limit="address"}': 0,
            'vllama_client_connections_refused_total{limit="files"}': 0,
        }
        clients.pop().close()
        await auntil(lambda: limits.open == 2, 5, "one connection less")
        clients.append(await connect(door))
        assert await clients[-1].ask() == b"200"
        assert [refusal.reason for refusal in door.refusals] == [Reason.CONNECTIONS]
        assert "raise VLLAMA_MAX_CONNECTIONS" in door.refusals[0].text
        for client in (*clients, beyond):
            client.close()
        await auntil(lambda: (limits.open, limits.refused) == (0, 0), 5, "no connection is left")


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/chat/completions", "api_error"), ("/v1/messages", "overloaded_error")]
)
async def test_the_503_has_the_format_of_the_path(path: str, kind: str) -> None:
    limits = ConnectionLimits(ConnectionBounds(total=1))
    async with front_door(app, {CONNECTIONS: limits}) as door:
        first, beyond = await connect(door), await connect(door)
        assert await first.ask() == b"200"
        assert await beyond.ask(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % path.encode()) == b"503"
        error = json.loads(await beyond.rest())["error"]
        assert (error["type"], error["message"]) == (kind, BUSY)
        first.close()
        beyond.close()


async def test_one_address_may_have_its_share_only() -> None:
    limits = ConnectionLimits(ConnectionBounds(total=10, per_client=2))
    async with front_door(app, {CONNECTIONS: limits}) as door:
        clients = [await connect(door) for _ in range(4)]
        assert sorted([await client.ask() for client in clients]) == [b"200"] * 2 + [b"503"] * 2
        other = Client(*await asyncio.open_connection("127.0.0.1", door.port, local_addr=("127.0.0.2", 0)))
        assert await other.ask() == b"200"
        assert all("127.0.0.1 has 2 connections" in refusal.text for refusal in door.refusals)
        assert shown(limits)['vllama_client_connections_refused_total{limit="address"}'] == 2
        for client in (*clients, other):
            client.close()


async def test_a_flood_of_connections_that_send_nothing_is_answered_and_closed() -> None:
    limits = ConnectionLimits(ConnectionBounds(total=2))
    async with front_door(app, {CONNECTIONS: limits}) as door:
        kept = [await connect(door) for _ in range(2)]
        assert [await client.ask() for client in kept] == [b"200"] * 2
        flood = [await connect(door) for _ in range(100)]
        await auntil(lambda: limits.refused <= 16, 5, "at most 16 refused connections wait")
        answers = await asyncio.gather(*(client.rest() for client in flood))
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        assert [await client.ask() for client in kept] == [b"200"] * 2
        assert limits.open == 2
        for client in (*kept, *flood):
            client.close()


async def test_new_clients_are_refused_while_descriptors_are_short_and_served_afterwards() -> None:
    limit = 4096
    limits = ConnectionLimits(ConnectionBounds(), lambda: limit)
    async with front_door(app, {CONNECTIONS: limits}) as door:
        present = await connect(door)
        assert await present.ask() == b"200"
        probe = os.open(os.devnull, os.O_RDONLY)
        os.close(probe)
        limit = probe + 3  # nearly as many are open already
        refused = await connect(door)
        assert await refused.ask() == b"503"
        assert await present.ask() == b"200"
        assert "raise the limit on open files" in door.refusals[0].text
        assert shown(limits)['vllama_client_connections_refused_total{limit="files"}'] == 1
        limit = 4096
        later = await connect(door)
        assert await later.ask() == b"200"
        for client in (present, refused, later):
            client.close()

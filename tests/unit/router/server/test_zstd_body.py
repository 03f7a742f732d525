"""Bodies in zstd, as handlers receive them."""

from __future__ import annotations

import threading
import tracemalloc

import pytest

from tests.support.asgi import DISCONNECT, FakeClient, body_part
from tests.support.zstd import frame, skippable
from vllama_pool.router.errors import BadRequest, TooLarge
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.server.asgi import ClientDisconnected, read_body
from vllama_pool.router.server.zstd_body import DecodedBody

MIB = 2**20
SENT = frame(b"hello")


async def test_a_body_is_received_decoded() -> None:
    for parts in (
        [body_part(SENT, more=False)],
        [body_part(SENT[:3]), body_part(b""), body_part(SENT[3:], more=False)],
    ):
        assert await read_body(DecodedBody(FakeClient(*parts).receive, 100), 100) == b"hello"


async def test_an_empty_body_stays_empty() -> None:
    assert await read_body(DecodedBody(FakeClient(body_part(b"", more=False)).receive, 100), 100) == b""


async def test_a_body_of_the_limits_size_is_received_and_a_larger_one_is_refused() -> None:
    for size in (MIB, MIB + 1):
        body = DecodedBody(FakeClient(body_part(frame(b"a" * size), more=False)).receive, MIB)
        if size == MIB:
            assert len(await read_body(body, MIB)) == MIB
        else:
            with pytest.raises(TooLarge, match="larger than 1 MiB; send less"):
                await read_body(body, MIB)


async def test_what_arrives_is_limited_even_if_nothing_is_decoded() -> None:
    client = FakeClient(*[body_part(skippable(b"x" * 30_000))] * 10)
    with pytest.raises(TooLarge, match="larger than"):
        await read_body(DecodedBody(client.receive, 100_000), 100_000)
    assert len(client.unread) == 6


async def test_a_bomb_costs_no_more_memory_than_a_body_of_the_limits_size() -> None:
    bomb = frame(b"\0" * (256 * MIB), window_log=23)
    assert len(bomb) < MIB
    client = FakeClient(body_part(bomb, more=False))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await read_body(DecodedBody(client.receive, 8 * MIB), 8 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB


@pytest.mark.parametrize("sent", [b"{}", SENT[:-1], SENT + b"{}"])
async def test_a_damaged_body_is_the_clients_fault(sent: bytes) -> None:
    with pytest.raises(BadRequest, match="the zstd body is in"):
        await read_body(DecodedBody(FakeClient(body_part(sent, more=False)).receive, 100), 100)


async def test_a_disconnect_within_the_body_is_passed_on() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(DecodedBody(FakeClient(body_part(SENT[:4]), DISCONNECT).receive, 100), 100)


async def test_after_the_body_the_client_can_be_watched() -> None:
    body = DecodedBody(FakeClient(body_part(SENT, more=False), DISCONNECT).receive, 100)
    assert await read_body(body, 100) == b"hello"
    assert await body() == DISCONNECT


async def test_the_event_loop_decodes_the_first_piece_of_a_large_body_only() -> None:
    sent = frame(b"a" * (4 * INLINE_BYTES))
    body = DecodedBody(FakeClient(body_part(sent, more=False)).receive, 8 * INLINE_BYTES)
    before = threading.active_count()
    assert len((await body())["body"]) == INLINE_BYTES
    assert threading.active_count() == before
    assert len((await body())["body"]) == 3 * INLINE_BYTES
    assert threading.active_count() > before

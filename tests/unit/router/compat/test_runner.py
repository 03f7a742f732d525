"""What comes of checks."""

import pytest

from tests.support.ports import free_ports
from tests.support.raw_server import RawServer, hold, request
from vllama_pool.router.compat.check import Check, covers, declared
from vllama_pool.router.compat.checks import CHECKS, writes
from vllama_pool.router.compat.expect import Differs, Skipped
from vllama_pool.router.compat.models import Models
from vllama_pool.router.compat.runner import PATIENCE, Result, look, run
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import Place

NOWHERE = Place("127.0.0.1", 1)


@covers(1, 2)
async def passes(target: Target) -> None:
    """Everything is as it should be."""


@covers(3)
async def differs(target: Target) -> None:
    raise Differs("expected a; got b")


@covers(4)
async def skips(target: Target) -> None:
    target.model("chat")


async def test_outcomes_in_order() -> None:
    seen: list[str] = []
    found = await run(
        Target(NOWHERE, Models()), [passes, differs, skips], progress=lambda check: seen.append(check.name)
    )
    assert [(outcome.result, outcome.detail) for outcome in found] == [
        (Result.SAME, ""),
        (Result.DIFFERS, "expected a; got b"),
        (Result.SKIPPED, "no model that chats; name one with --model"),
    ]
    assert seen == ["passes", "differs", "skips"]


async def test_a_server_that_is_gone_or_hangs_differs() -> None:
    @covers(5)
    async def asks(target: Target) -> None:
        await target.get("/api/status")

    gone = await look(Target(Place("127.0.0.1", free_ports()), Models()), asks)
    assert gone.result is Result.DIFFERS
    assert gone.detail.startswith("GET /api/status: expected an answer; ")
    async with RawServer([request, hold]) as server:
        at = Place(server.endpoint.host, server.endpoint.port)
        hangs = await look(Target(at, Models(), timeout=0.1), asks)
    assert hangs.detail == "GET /api/status: expected an answer; none came in time"


async def test_a_server_that_hangs_is_not_asked_for_ever() -> None:
    def asking(path: str) -> Check:
        @covers(5)
        async def asks(target: Target) -> None:
            await target.get(path)

        return asks

    async with RawServer([request, hold]) as server:
        at = Place(server.endpoint.host, server.endpoint.port)
        found = await run(Target(at, Models(), timeout=0.1), [asking(f"/{number}") for number in range(9)])
    assert [outcome.result for outcome in found] == [Result.DIFFERS] * PATIENCE + [Result.SKIPPED] * (9 - PATIENCE)
    assert len(server.requests) == PATIENCE


async def test_what_was_asked_before_is_not_asked_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    async with RawServer([request, answer]) as server:
        target = Target(Place(server.endpoint.host, server.endpoint.port), Models(), key="k")
        for fields in ({}, {}, {"x": 1}, {}):
            await target.once("/api/show", fields)
    assert [received.body for received in server.requests] == [b"{}", b'{"x": 1}']
    assert server.requests[0].headers["authorization"] == "Bearer k"


def test_checks_are_found_where_they_are_declared() -> None:
    found = declared(writes)
    assert found
    assert all(check.writes for check in found)
    assert all(check in CHECKS for check in found)
    assert not any(check.writes for check in CHECKS if check not in found)
    assert isinstance(passes, Check)
    assert passes.rules == {1, 2}


def test_skipping_says_what_would_help() -> None:
    with pytest.raises(Skipped, match="--embed-model"):
        Target(NOWHERE, Models()).model("embed")

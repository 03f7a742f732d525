"""Running checks against a server."""

import pytest

from tests.support.ports import free_ports
from tests.support.vllm.scripted_server import ScriptedServer, hold, request
from vllama_pool.router.compat.checks import CHECKS, writes
from vllama_pool.router.compat.checks.check import Check, checks_in, covers
from vllama_pool.router.compat.expect import Differs, Skipped
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.runner import MAX_TIMEOUTS, Result, run, run_check
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import ServerUrl

NOWHERE = ServerUrl("127.0.0.1", 1)


@covers(1, 2)
async def passes(server: CheckedServer) -> None:
    pass


@covers(3)
async def differs(server: CheckedServer) -> None:
    raise Differs("expected a; got b")


@covers(4)
async def skips(server: CheckedServer) -> None:
    server.model("chat")


async def test_outcomes_keep_the_order_of_the_checks() -> None:
    progress: list[str] = []
    found = await run(
        CheckedServer(NOWHERE, ModelChoice()),
        [passes, differs, skips],
        progress=lambda check: progress.append(check.name),
    )
    assert [(outcome.result, outcome.detail) for outcome in found] == [
        (Result.SAME, ""),
        (Result.DIFFERS, "expected a; got b"),
        (Result.SKIPPED, "no model that chats; name one with --model"),
    ]
    assert progress == ["passes", "differs", "skips"]


async def test_a_server_that_is_gone_or_times_out_differs() -> None:
    @covers(5)
    async def get_status(server: CheckedServer) -> None:
        await server.get("/api/status")

    gone = await run_check(CheckedServer(ServerUrl("127.0.0.1", free_ports()), ModelChoice()), get_status)
    assert gone.result is Result.DIFFERS
    assert gone.detail.startswith("GET /api/status: expected an answer; ")
    async with ScriptedServer([request, hold]) as raw:
        at = ServerUrl(raw.endpoint.host, raw.endpoint.port)
        hangs = await run_check(CheckedServer(at, ModelChoice(), timeout=0.1), get_status)
    assert hangs.detail == "GET /api/status: expected an answer; timed out"


async def test_checks_are_skipped_after_several_timeouts_in_a_row() -> None:
    def get_check(path: str) -> Check:
        @covers(5)
        async def get_status(server: CheckedServer) -> None:
            await server.get(path)

        return get_status

    async with ScriptedServer([request, hold]) as raw:
        at = ServerUrl(raw.endpoint.host, raw.endpoint.port)
        found = await run(
            CheckedServer(at, ModelChoice(), timeout=0.1), [get_check(f"/{number}") for number in range(9)]
        )
    assert [outcome.result for outcome in found] == [Result.DIFFERS] * MAX_TIMEOUTS + [Result.SKIPPED] * (
        9 - MAX_TIMEOUTS
    )
    assert len(raw.requests) == MAX_TIMEOUTS


async def test_equal_requests_are_sent_once() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    async with ScriptedServer([request, answer]) as raw:
        server = CheckedServer(ServerUrl(raw.endpoint.host, raw.endpoint.port), ModelChoice(), key="k")
        for fields in ({}, {}, {"x": 1}, {}):
            await server.post_cached("/api/show", fields)
    assert [received.body for received in raw.requests] == [b"{}", b'{"x": 1}']
    assert raw.requests[0].headers["authorization"] == "Bearer k"


def test_declared_finds_the_checks_of_a_module() -> None:
    found = checks_in(writes)
    assert found
    assert all(check.writes for check in found)
    assert all(check in CHECKS for check in found)
    assert not any(check.writes for check in CHECKS if check not in found)
    assert isinstance(passes, Check)
    assert passes.rules == {1, 2}


def test_a_skipped_check_names_the_option_that_would_help() -> None:
    with pytest.raises(Skipped, match="--embed-model"):
        CheckedServer(NOWHERE, ModelChoice()).model("embed")

"""No check passes on a server that gives every request the same response."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.support.vllm.scripted_server import ScriptedServer, json_response, request
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.runner import Result, run_check
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import parse_url

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = ModelChoice(chat="c", embed="e", thinking="t", tools="f", vision="v", audio="a", unthinking="c", toolless="c")
ANSWERS = ((200, b"{}"), (500, b'{"error": "no"}'))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[CheckedServer]]:
    """One server per response."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(ScriptedServer([request, json_response(*answer)])) for answer in ANSWERS
        ]
        yield [CheckedServer(parse_url(server.url), MODELS, timeout=20) for server in servers]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_a_check_differs_on_servers_with_one_response_for_all(servers: list[CheckedServer], check: Check) -> None:
    results = {(await run_check(server, check)).result for server in servers}
    assert Result.SAME not in results
    assert Result.DIFFERS in results

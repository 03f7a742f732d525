"""The router gives the answer that each check of `vllama compat` expects of Ollama."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.fleet.described import described_fleet
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.models import ModelChoice, choose, parse_tags
from vllama_pool.router.compat.runner import Result, run, run_check
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import parse_url

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEED_VISION = {check.name for check in CHECKS if check.name.endswith(("accept_images", "accepts_images"))}
"""Simulated workers have no vision. tests/vllm/test_vision.py runs these checks."""
RUNNABLE = [
    pytest.param(check, id=check.name, marks=pytest.mark.rule(*sorted(check.rules)))
    for check in CHECKS
    if check.name not in NEED_VISION
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CheckedServer]:
    async with described_fleet(tmp_path_factory.mktemp("state")) as running:
        models = choose(parse_tags((await running.http.get("/api/tags")).json()), ModelChoice())
        yield CheckedServer(parse_url(running.url), models, timeout=20, idle_seconds=0.2)


@pytest.mark.parametrize("check", RUNNABLE)
async def test_the_router_answers_as_ollama_does(server: CheckedServer, check: Check) -> None:
    outcome = await run_check(server, check)
    assert outcome.result is Result.SAME, outcome.detail


async def test_a_model_that_can_do_everything_answers_as_ollamas_does(tmp_path: Path) -> None:
    """Chats with a model that also thinks and calls tools, which the checks otherwise avoid."""
    async with described_fleet(tmp_path) as running:
        models = choose(parse_tags((await running.http.get("/api/tags")).json()), ModelChoice(chat="able"))
        outcomes = await run(CheckedServer(parse_url(running.url), models, timeout=20, idle_seconds=0.2), CHECKS)
    assert {o.check.name: o.detail for o in outcomes if o.result is Result.DIFFERS} == {}

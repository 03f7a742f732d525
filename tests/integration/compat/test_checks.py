"""Every check can fail: none of them takes a server that answers anything for Ollama."""

import asyncio

import pytest

from tests.support.answering import answering
from vllama_pool.router.compat.check import Check
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.models import Models
from vllama_pool.router.compat.runner import Outcome, Result, run
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import place

MODELS = Models(chat="c", embed="e", thinking="t", tools="f", vision="v", unthinking="c", toolless="c")
ANSWERS = {"yes": (200, b"{}"), "no": (500, b'{"error": "no"}')}


async def outcomes(status: int, body: bytes) -> list[Outcome]:
    async with answering(status, body) as url:
        return await run(Target(place(url), MODELS, timeout=5), CHECKS)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Result]]:
    """By answer, what came of each check."""
    return {
        name: {outcome.check.name: outcome.result for outcome in asyncio.run(outcomes(*answer))}
        for name, answer in ANSWERS.items()
    }


def test_checks_have_names_of_their_own(results: dict[str, dict[str, Result]]) -> None:
    assert {len(found) for found in results.values()} == {len(CHECKS)}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_no_check_passes_on_a_server_that_says_yes_or_no_to_everything(
    results: dict[str, dict[str, Result]], check: Check
) -> None:
    found = {answer: results[answer][check.name] for answer in ANSWERS}
    assert Result.SAME not in found.values()
    assert Result.DIFFERS in found.values()

"""Our own router through the eyes of `vllama compat`: rule by rule, as any server is looked at."""

import asyncio
from pathlib import Path

import pytest

from tests.support.described import described_fleet
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.models import Models, choose, listed
from vllama_pool.router.compat.report import Row, by_rule
from vllama_pool.router.compat.rule import Rule
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.runner import Result, run
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import place

SEEN = [rule for rule in RULES if rule.outside]
UNTRIED: frozenset[int] = frozenset()
"""Rules that simulated workers cannot show. An entry that can be looked at fails."""
SMALLEST = Models()
"""The model for each use that is chosen where nobody names one."""
EXPECTED: dict[int, str] = {}
"""Rules by which we differ, and why. An entry by which we do not fails."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Row]:
    """What came of each rule. One run for all tests of a process: what it asks is the same for each."""
    return {row.rule.number: row for row in asyncio.run(looked_at(tmp_path_factory.mktemp("state")))}


async def looked_at(state_dir: Path, wanted: Models = SMALLEST) -> list[Row]:
    async with described_fleet(state_dir) as running:
        models = choose(listed((await running.http.get("/api/tags")).json()), wanted)
        return by_rule(await run(Target(place(running.url), models, timeout=20), CHECKS), RULES)


@pytest.mark.parametrize("rule", SEEN, ids=lambda rule: rule.name)
def test_we_are_as_ollama_is(rows: dict[int, Row], rule: Rule) -> None:
    row = rows[rule.number]
    if rule.number in EXPECTED:
        assert row.result is Result.DIFFERS, f"{rule.name} differs no more: take it off EXPECTED"
        pytest.xfail(EXPECTED[rule.number])
    if rule.number in UNTRIED:
        assert row.result is Result.SKIPPED, f"{rule.name} is looked at now: take it off UNTRIED"
        pytest.skip(row.detail)
    assert row.result is Result.SAME, f"{rule.title}: {row.detail}"


async def test_a_model_that_thinks_is_as_ollamas_where_it_answers_everything(tmp_path: Path) -> None:
    rows = await looked_at(tmp_path, Models(chat="able"))
    differing = {row.rule.number: row.detail for row in rows if row.result is Result.DIFFERS}
    assert {number: detail for number, detail in differing.items() if number not in EXPECTED} == {}

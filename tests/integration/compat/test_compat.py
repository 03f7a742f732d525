"""Our own router through the eyes of `vllama compat`: rule by rule, as any server is looked at."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from router.compat.checks import CHECKS
from router.compat.expect import an_object
from router.compat.models import Models, choose, listed
from router.compat.report import Row, by_rule
from router.compat.rule import Rule
from router.compat.rules import RULES
from router.compat.runner import Result, run
from router.compat.target import Target
from router.compat.wire import place
from tests.support.live import Fleet, fleet
from tests.support.until import auntil
from workers.simulated.options import Options

SEEN = [rule for rule in RULES if rule.outside]
QUICK = Options(model="plain", tokens_per_second=2000.0, ttft=0.001, answer_tokens=24)
WORKERS = {
    "plain": QUICK,
    "able": replace(QUICK, model="able", tool_calls=True, tool_parser=True, reasoning=True),
    "vectors": replace(QUICK, model="vectors", embedding=True, dimensions=16, max_model_len=64),
}
UNTRIED: frozenset[int] = frozenset()
"""Rules that simulated workers cannot show."""
EXPECTED: dict[int, str] = {
    40: "errors hold <, > and & as they are; every JSON reader takes both",
}
"""Rules by which we differ, and why. An entry by which we do not fails."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Row]:
    """What came of each rule. One run for all tests of a process: what it asks is the same for each."""
    return {row.rule.number: row for row in asyncio.run(looked_at(tmp_path_factory.mktemp("state")))}


async def looked_at(state_dir: Path) -> list[Row]:
    async with fleet(state_dir, WORKERS) as running:
        await describe(running)
        tags = await Target(place(running.url), Models()).get("/api/tags")
        target = Target(place(running.url), choose(listed(an_object(tags)), Models()), timeout=20)
        return by_rule(await run(target, CHECKS), RULES)


async def describe(running: Fleet) -> None:
    """Let the workers know of their models what agents read from the models' files."""
    for announced in running.workers.values():
        (model,) = announced.record.models
        known = msgspec.structs.replace(
            model,
            digest=f"{len(model.name):064x}",
            modified_at=1_700_000_000.5,
            parameter_count=134_515_008,
            quantization="BF16",
            embedding_length=576,
        )
        announced.record = msgspec.structs.replace(announced.record, generation=2, models=(known,))
        await running.registry.register(announced.record, announced.load())

    await auntil(lambda: described(running), 10, "the router to see what the models are")


async def described(running: Fleet) -> bool:
    found = (await running.http.get("/api/tags")).json()["models"]
    return len(found) == len(WORKERS) and all(item["details"]["parameter_size"] for item in found)


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

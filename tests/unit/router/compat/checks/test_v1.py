"""The checks of /v1 on a server that answers as Ollama does, and on servers that are wrong in one way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.compat.changes import Change, objects, retyped, within
from tests.support.compat.ollama_v1 import OllamaV1
from tests.support.compat.v1_checks import ACCEPTING, CHECKS
from tests.support.compat.wrong_chats import WRONG_CHATS
from tests.support.compat.wrong_items import WRONG_ITEMS
from tests.support.compat.wrong_routes import WRONG_ROUTES
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.runner import Result, run_check

WRONG = (*WRONG_ROUTES, *WRONG_CHATS, *WRONG_ITEMS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
async def test_ollamas_own_answers_pass(check: Check) -> None:
    outcome = await run_check(OllamaV1(), check)
    assert outcome.result is Result.SAME, outcome.detail


@pytest.mark.parametrize(("change", "names"), [each[1:] for each in WRONG], ids=[f"that {each[0]}" for each in WRONG])
async def test_checks_differ_on_a_server(change: Change, names: tuple[str, ...]) -> None:
    outcomes = {name: await run_check(OllamaV1(change), CHECKS[name]) for name in names}
    assert {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not Result.DIFFERS} == {}


@pytest.mark.parametrize("value", [5, "x", [1]], ids=str)
async def test_checks_survive_answers_with_values_of_another_type(value: object) -> None:
    keys: set[str] = set()

    def see(found: dict[str, Any]) -> None:
        keys.update(key for each in within(found) for key in each)

    answering = [check for name, check in CHECKS.items() if name in ACCEPTING and "zstd" not in name]
    for check in answering:
        await run_check(OllamaV1(objects(see)), check)
    assert {"choices", "output", "content", "data"} <= keys
    for key in keys:
        for check in answering:
            await run_check(OllamaV1(retyped(key, value)), check)


def test_every_check_has_a_wrong_server() -> None:
    assert {name for _, _, names in WRONG for name in names} == set(CHECKS)

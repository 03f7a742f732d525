"""An explanation equals what the router does next, for generated tables, workers and requests."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from tests.support.generated_tables import Asking, Case, generate
from vllama_pool.config.routing.table import parse
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.explain import REFUSED, ROUTED, UNKNOWN, Explanation, Subject, explain
from vllama_pool.router.routing.lint import lint
from vllama_pool.router.routing.live_lint import Live, live_lint
from vllama_pool.router.routing.resolution import Resolution, UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rules import REASONS

CASES = 1000
REQUESTS = 5


def subject_of(asking: Asking) -> Subject:
    return Subject(asking.name, asking.asker, lambda resolution: resolution.demand(asking.request, asking.asker))


def check(explanation: Explanation, routes: ModelRoutes, case: Case, asking: Asking, rng: random.Random) -> None:
    """Route one request as the handler does, and compare. Its worker then has one request more."""
    try:
        resolution = routes.resolve(asking.name, case.pool)
    except UnknownModel:
        assert explanation.outcome == UNKNOWN
        return
    except NoWorker as refusal:
        seen = (explanation.outcome, explanation.error) == (REFUSED, refusal.text)
        assert seen, explanation
        return
    assert explanation.outcome == ROUTED
    if resolution.needs_asker:
        resolution = resolution.drawn(resolution.identity(asking.asker))
    assert explanation.target == resolution.target
    assert [target.model for target in explanation.targets if target.first] == [resolution.target.partition(" on ")[0]]
    check_fallbacks(explanation, resolution)
    replica = resolution.choose((), case.clock(), rng, resolution.demand(asking.request, asking.asker))
    if replica is None:
        assert explanation.chosen == ""
        return
    assert (explanation.chosen, explanation.chosen_model) == (replica.worker.id, replica.model.name)
    candidates = [each for each in explanation.candidates if not each.left_out]
    assert (replica.worker.id, replica.model.name) in {(each.worker, each.model) for each in candidates}
    case.pool.lease(replica.worker, replica.model.name)


def check_fallbacks(explanation: Explanation, resolution: Resolution) -> None:
    asked = resolution if resolution.asked is None else resolution.asked.resolution
    assert (explanation.stand_in == "") == (asked is resolution)
    shown = {view.reason: view.serving for view in explanation.fallbacks}
    for reason in REASONS:
        first = asked.next(reason, ())
        assert shown.get(reason, ())[:1] == (() if first is None else (first.model,)), reason


@pytest.mark.parametrize("batch", range(10))
def test_an_explanation_equals_what_the_router_then_does(batch: int) -> None:
    """Each explanation comes before its request, in the same state, and must leave that state as it is."""
    outcomes: Counter[str] = Counter()
    for seed in range(batch * CASES // 10, (batch + 1) * CASES // 10):
        case = generate(seed, REQUESTS)
        rng = random.Random(seed)
        routes = ModelRoutes(case.table, rng, virtual=case.virtual)
        for asking in case.requests:
            subject = subject_of(asking)
            first = explain(routes, case.pool, subject, case.clock(), rng)
            again = explain(routes, case.pool, subject, case.clock(), rng)
            assert first == again, f"seed {seed}: an explanation changed the state"
            try:
                check(first, routes, case, asking, rng)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {asking.name}, {asking.asker}: {error}") from error
            outcomes[first.outcome] += 1
            case.clock.advance(0.01)
    assert set(outcomes) == {ROUTED, REFUSED, UNKNOWN}


def test_the_generated_tables_are_valid_files_that_checks_can_read() -> None:
    for seed in range(100):
        case = generate(seed)
        table = parse(json.dumps(case.sections).encode())
        assert table.entries == case.table.entries
        lint(table)
        live_lint(Live(table, ModelRoutes(table, random.Random(1)), case.pool))

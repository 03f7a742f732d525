"""An explanation equals what the router does next, for generated tables, workers and requests."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.support.generated_tables import Asking, Case, generate
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.explain import REFUSED, ROUTED, UNKNOWN, Explanation, Subject, explain
from vllama_pool.router.routing.resolution import Resolution, UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes

CASES = 1000
REQUESTS = 4


def decide(routes: ModelRoutes, case: Case, asking: Asking, rng: random.Random) -> tuple[Resolution, str]:
    """Route one request as the handler does, and return its resolution and worker."""
    resolution = routes.resolve(asking.name, case.pool)
    if resolution.needs_asker:
        resolution = resolution.drawn(resolution.identity(asking.asker))
    replica = resolution.choose((), case.clock(), rng, asking.demand)
    return resolution, replica.worker.id if replica is not None else ""


def check(explanation: Explanation, routes: ModelRoutes, case: Case, asking: Asking, rng: random.Random) -> None:
    try:
        resolution, worker = decide(routes, case, asking, rng)
    except UnknownModel:
        assert explanation.outcome == UNKNOWN
        return
    except NoWorker as refusal:
        seen = (explanation.outcome, explanation.error) == (REFUSED, refusal.text)
        assert seen, explanation
        return
    assert explanation.outcome == ROUTED
    assert explanation.chosen == worker
    assert (explanation.stand_in != "") == (resolution.asked is not None)
    assert explanation.target == resolution.target
    assert [target.model for target in explanation.targets if target.first] == [resolution.target.partition(" on ")[0]]
    if worker:
        (seen,) = [each for each in explanation.candidates if each.worker == worker and not each.left_out][:1]
        assert seen.model == explanation.chosen_model


@pytest.mark.parametrize("batch", range(10))
def test_an_explanation_equals_what_the_router_then_does(batch: int) -> None:
    """Each explanation comes before its request, in the same state, and must leave that state as it is."""
    outcomes: Counter[str] = Counter()
    for seed in range(batch * CASES // 10, (batch + 1) * CASES // 10):
        case = generate(seed, REQUESTS)
        rng = random.Random(seed)
        routes = ModelRoutes(case.table, rng, virtual=case.virtual)
        for asking in case.requests:
            subject = Subject(asking.name, asking.asker, lambda _, demand=asking.demand: demand)
            first = explain(routes, case.pool, subject, case.clock(), rng)
            again = explain(routes, case.pool, subject, case.clock(), rng)
            assert first == again, f"seed {seed}: an explanation changed the state"
            try:
                check(first, routes, case, asking, rng)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {asking}: {error}") from error
            outcomes[first.outcome] += 1
    assert set(outcomes) == {ROUTED, REFUSED, UNKNOWN}

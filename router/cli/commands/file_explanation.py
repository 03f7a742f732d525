"""Explanations by a routing file alone, as if a worker served each of its targets."""

from __future__ import annotations

import random

import msgspec

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.described import described_pool
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.cli.commands.against import rights_of
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.errors import ClientError
from vllama_pool.router.explainer import ModelExplainer, ModelQuestion
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.routing.assumed import assumed_workers
from vllama_pool.router.routing.explain import UNKNOWN, Explanation, known_names, near_names
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights


def explain_file(table: RoutingTable, question: ModelQuestion) -> Explanation:
    """Raises CommandFailed for an unusable question."""
    rng = random.Random(0)
    routes = ModelRoutes(table, rng)
    clock = SystemClock()

    def rights(key: str) -> Rights | None:
        if key not in (table.entries.keys or {}):
            raise KeyError(key)
        return rights_of(table, routes, key)

    def explainer(pool: Pool) -> ModelExplainer:
        kinds = {operation.name: operation for operation in operations(clock)}
        return ModelExplainer(lambda: routes, pool, clock, rng, kinds, rights)

    try:
        name, _ = explainer(described_pool(())).read(question)
        models = explainer(described_pool(assumed_workers(routes.rules, [name])))
        explanation = models.explain(question)
    except ClientError as error:
        raise CommandFailed(error.text) from None
    if explanation.outcome != UNKNOWN:
        return msgspec.structs.replace(explanation, chosen="", chosen_model="", candidates=())
    text = explanation.error
    if routes.rules.find(name) is None:
        text = f"no entry of the file is for '{name}'; a router knows it only if a worker serves it"
    near = near_names(name, known_names(routes, models.pool, None))
    return msgspec.structs.replace(explanation, error=text, near=near)

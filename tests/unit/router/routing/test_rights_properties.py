"""Rights of a key on generated tables: resolution, description and lists agree, and follow the rule."""

from __future__ import annotations

import random
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.balance import Clock, found, pool_of
from tests.support.tables import routing_table
from vllama_pool.config.names import lookup_key
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.resolution import UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import TableRights
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

SERVED = ("a1", "a2", "b1")
ENTRIES = ("c1", "c2", "d1")
ALIASES = ("e1", "e2", "a9")
NAMES = (*SERVED, *ENTRIES, *ALIASES, "v1", "v2", "unknown")
PATTERNS = ("*", "a*", "*1", "c*", "e*")

lists = st.none() | st.lists(st.sampled_from((*NAMES, *PATTERNS)), max_size=3, unique=True)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    aliases = draw(st.permutations(ALIASES))
    models: dict[str, Any] = {}
    for name, alias in zip(draw(st.lists(st.sampled_from(ENTRIES), unique=True)), aliases, strict=False):
        models[name] = {"serve": draw(st.sampled_from((*SERVED, "gone"))), "aliases": [alias]}
    return models


def _allows(listed: list[str] | None, names: tuple[str, ...]) -> bool:
    """The rule: one of the entry's names is listed, or matches a listed pattern."""
    if listed is None:
        return True
    return any(re.fullmatch(each.replace("*", ".*"), name) for each in listed for name in names)


@given(tables(), lists, lists, st.sampled_from((*SERVED, *ENTRIES)))
def test_resolution_description_and_lists_agree_with_the_rule(
    models: dict[str, Any], own: list[str] | None, team: list[str] | None, base: str
) -> None:
    key = {"sha256": "a" * 64, "team": "blue", **({} if own is None else {"models": own})}
    table = routing_table(models=models, teams={"blue": {} if team is None else {"models": team}}, keys={"anna": key})
    made = VirtualModel(name="v1:latest", revision=1, base=f"{base}:latest")
    routes = ModelRoutes(table, random.Random(1), virtual={key_of(made.name): made})
    pool = pool_of(Clock(), *(found(name, name) for name in SERVED))
    rights = TableRights(table.entries, routes.names_of).of_key("anna")

    def names(name: str) -> tuple[str, ...]:
        routed = base if name == "v1" else name
        entries = [(entry, *fields["aliases"]) for entry, fields in models.items()]
        return (routed, *next((entry for entry in entries if routed in entry), ()))

    def outcome(name: str, limited: bool) -> str:
        try:
            return routes.resolve(name, pool, rights if limited else None).model
        except UnknownModel:
            return "unknown"
        except NoWorker:
            return "no worker"

    for name in NAMES:
        allowed = _allows(own, names(name)) and _allows(team, names(name))
        assert outcome(name, True) == (outcome(name, False) if allowed else "unknown"), name
        described = routes.find(name, pool)
        assert routes.find(name, pool, rights) == (described if allowed else None), name
    listed = routes.list_models(pool)
    visible = [model for model in listed if routes.find(model.name, pool, rights) is not None]
    assert list(routes.list_models(pool, rights)) == visible
    assert {lookup_key(model.name) for model in visible} <= {lookup_key(model.name) for model in listed}

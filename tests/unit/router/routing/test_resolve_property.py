"""Resolution compared with a plain search through generated tables."""

import random
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.support.balance import Clock, pool_of, tagged
from tests.support.tables import routing_table
from vllama_pool.config.names import lookup_key
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.resolution import UnknownModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import ModelInfo

SERVED = ("m1", "m2", "m3", "x-a", "x-b")
NAMES = ("a", "b", "c", "a-1", "b-1", "x-a", "x-c", "m1", "m9")
PATTERNS = ("a*", "*-1", "x-*", "*", "b-*", "*a*")


def generated(rng: random.Random) -> dict[str, dict[str, Any]]:
    """Return entries of which exact ones have aliases of their own, and fallbacks that only lead to later entries."""
    keys = rng.sample(NAMES, rng.randint(0, 5)) + rng.sample(PATTERNS, rng.randint(0, 4))
    rng.shuffle(keys)
    entries: dict[str, dict[str, Any]] = {}
    for number, key in enumerate(keys):
        entry: dict[str, Any] = {}
        if rng.random() < 0.7:
            entry["serve"] = rng.choice([*SERVED, "m9", "x-{1}" if "*" in key else "m1"])
        if rng.random() < 0.3:
            entry["workers"] = {"require": [rng.choice(("old", "new"))]}
        if rng.random() < 0.2:
            entry["maintenance"] = "away"
        if rng.random() < 0.4:
            entry["fallback"] = {"no_worker": [rng.choice((*SERVED, *keys[number + 1 :])).replace("*", "q")]}
        entries[key] = entry
    return entries


def expected(name: str, entries: dict[str, dict[str, Any]], served: dict[str, set[str]]) -> Any:
    """Return the tags of the workers that may answer, "unknown" or "none". Written without regard to speed."""
    found = first_rule(name, entries)
    if found is None:
        return served.get(name) or "unknown"
    key, entry, capture = found
    follows = "*" in key and "{" in entry.get("serve", "{")
    target = entry.get("serve", name).replace("{1}", capture)
    workers = served.get(target, set())
    required = entry.get("workers", {}).get("require")
    fitting = {worker for worker in workers if required is None or worker in required}
    if fitting and "maintenance" not in entry:
        return fitting
    fallbacks = entry.get("fallback", {}).get("no_worker", ())
    if follows and not workers and not fallbacks:
        return "unknown"
    for fallback in chain(fallbacks, entries, {name if follows else key}):
        workers_there = expected(fallback, without_fallbacks(entries), served)
        if isinstance(workers_there, set):
            return workers_there
    return "none"


def chain(names: Iterable[str], entries: dict[str, dict[str, Any]], seen: set[str]) -> list[str]:
    waiting, chained = list(names), []
    while waiting:
        name = waiting.pop(0)
        found = first_rule(name, entries)
        follows = found is not None and "*" in found[0] and "{" in found[1].get("serve", "{")
        key = name if found is None or follows else found[0]
        if key not in seen:
            seen.add(key)
            chained.append(name)
            waiting += found[1].get("fallback", {}).get("no_worker", ()) if found is not None else ()
    return chained


def without_fallbacks(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {part: value for part, value in entry.items() if part != "fallback"} for key, entry in entries.items()}


def first_rule(name: str, entries: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any], str] | None:
    if name in entries:
        return name, entries[name], ""
    for key, entry in entries.items():
        for spelled in (name, f"{name}:latest"):
            if "*" in key and fnmatchcase(spelled, key):
                first, _, rest = key.partition("*")
                part = rest.split("*")[0]
                begin = len(first)
                end = spelled.index(part, begin) if "*" in rest else len(spelled) - len(rest)
                return key, entry, spelled[begin:end]
    return None


@pytest.mark.parametrize("seed", range(40))
def test_names_go_where_a_plain_search_of_the_table_sends_them(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        entries = generated(rng)
        served: dict[str, set[str]] = {}
        found = []
        for model in SERVED:
            for tag in rng.sample(("old", "new"), rng.randint(0, 2)):
                served.setdefault(model, set()).add(tag)
                found.append(tagged(f"{model}-{tag}", tag, model=ModelInfo(name=model)))
        pool = pool_of(Clock(), *found)
        routes = ModelRoutes(routing_table(models=entries), random.Random(1))
        for name in (*NAMES, "q", "aq-1"):
            for spelled in (name, name.upper(), f"{name}:latest"):
                assert lookup_key(spelled) == lookup_key(name)
                try:
                    resolution = routes.resolve(spelled, pool)
                    outcome: Any = {tag for each in resolution.replicas for tag in each.worker.record.tags}
                except UnknownModel:
                    outcome = "unknown"
                except NoWorker:
                    outcome = "none"
                assert outcome == expected(name, entries, served), (spelled, entries, served)

"""Suggestions for unknown keys, at every level of the declaration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vllama_pool.config.routing.model_entry import ModelEntry, PrefixAffinity, Selector, Session, Target
from vllama_pool.config.routing.places import Path
from vllama_pool.config.routing.schema import RoutingFile
from vllama_pool.config.routing.schema_paths import Model, fields_below, models_at
from vllama_pool.config.routing.unknown_keys import unknown_key

STEPS: tuple[str | int, ...] = ("NAME", 0)


def all_paths(path: Path = (), depth: int = 0) -> Iterator[tuple[Path, Model]]:
    """Yield the path and the model of each mapping of the declaration."""
    for model in models_at(path):
        yield path, model
        for key in model.model_fields if depth < 8 else ():
            for steps in ((), (STEPS[0],), (STEPS[1],)):
                below = (*path, key, *steps)
                if models_at(below):
                    yield from all_paths(below, depth + 1)


LEVELS = list({(path, model.__name__): (path, model) for path, model in all_paths()}.values())


def test_all_levels_are_found() -> None:
    names = {model.__name__ for _, model in LEVELS}
    assert {"RoutingFile", "ModelEntry", "Target", "Selector", "Fallbacks", "Session", "Caps", "Key", "Reload"} <= names


@pytest.mark.parametrize(
    ("path", "model"),
    LEVELS,
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else value.__name__,
)
def test_each_key_is_suggested_for_its_misspelling(path: Path, model: Model) -> None:
    for key in model.model_fields:
        if len(key) > 4:
            kind = {"PrefixAffinity": "prefix-affinity", "Session": "session"}.get(model.__name__)
            assert unknown_key(f"{key[:2]}{key[3:]}", path, kind).endswith(f"did you mean '{key}'?")


def test_the_models_at_a_path_come_from_the_types() -> None:
    assert models_at(()) == (RoutingFile,)
    assert models_at(("models", "x")) == (ModelEntry,)
    assert models_at(("models", "x", "serve", 3)) == (Target,)
    assert models_at(("models", "x", "serve", 3, "workers")) == (Selector,)
    assert models_at(("models", "x", "policy")) == (PrefixAffinity, Session)
    assert models_at(("models", "x", "policy"), "session") == (Session,)
    assert models_at(("models", "x", "stream_interval")) == ()
    assert models_at(("models", 0)) == ()


def test_a_key_of_a_mapping_below_is_moved_there() -> None:
    assert fields_below(ModelEntry)["temperature"] == ("options",)
    assert unknown_key("concurrency", ("models", "x")) == "unknown key; write it under 'limits'"
    assert unknown_key("stall", ("models", "x")) == "unknown key; write it under 'timeouts'"
    assert unknown_key("output", ("teams", "a")) == "unknown key; write it under 'limits'"


def test_a_key_of_a_mapping_around_is_moved_there() -> None:
    assert unknown_key("policy", ("models", "x", "limits")) == "unknown key; write it beside 'limits'"
    assert unknown_key("teams", ("models", "x")) == "unknown key; begin it at the left margin"


def test_a_key_that_resembles_none_gets_the_list() -> None:
    assert unknown_key("zzz", ("reload",)) == "unknown key; write one of orphans"
    assert unknown_key("zzz", ("models", "x", "options")) == "unknown option; write one of Ollama's option names"
    assert unknown_key("mirostat", ("models", "x", "options")) == "no longer an option of Ollama; remove it"

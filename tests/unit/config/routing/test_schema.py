"""The values that a routing file may have, and the JSON Schema for editors."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from vllama_pool.config.routing.model_entry import ModelEntry
from vllama_pool.config.routing.model_options import ModelOptions
from vllama_pool.config.routing.schema import RoutingFile, WorkerEntry, json_schema
from vllama_pool.config.routing.table import DEFAULT_FILE


def error_types(value: Any, schema: Any = RoutingFile) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        schema.model_validate(value)
    return [error["type"] for error in raised.value.errors()]


@pytest.mark.parametrize("name", ["a b", "../x", "a/b/c/d", "x@sha256:1", "x:"])
def test_names_and_aliases_follow_ollamas_grammar(name: str) -> None:
    for value in ({name: {}}, {"x": {"aliases": [name]}}):
        with pytest.raises(ValidationError, match=r"; write \[namespace/\]model\[:tag\]"):
            RoutingFile.model_validate({"models": value})


@pytest.mark.parametrize("name", ["x:cloud", "x:8b-cloud"])
def test_cloud_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="remove the cloud suffix"):
        RoutingFile.model_validate({"models": {name: {}}})


def test_served_names_need_not_follow_ollamas_grammar() -> None:
    assert ModelEntry(serve="/models/Llama 3.gguf").serve == "/models/Llama 3.gguf"


@pytest.mark.parametrize("name", ["a\nb", " a", "a ", "a\x00"])
def test_served_names_have_no_control_characters_and_no_outer_blanks(name: str) -> None:
    for serve in (name, [name], [{"model": name}]):
        with pytest.raises(ValidationError, match="write the name as vLLM serves it"):
            ModelEntry.model_validate({"serve": serve})


@pytest.mark.parametrize("serve", [3, {"model": "a"}, [["a"]], [3], [], ""])
def test_serve_is_a_served_model_or_a_list_of_them(serve: object) -> None:
    assert len(error_types({"serve": serve}, ModelEntry)) == 1


def test_a_worker_url_is_normalised() -> None:
    assert WorkerEntry(url="HTTP://Gpu-5:80/").url == "http://gpu-5"


def test_a_worker_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValidationError) as raised:
        WorkerEntry(url="http://u:hunter2@a")
    (error,) = raised.value.errors(include_input=False)
    assert "hunter2" not in error["msg"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", "1"), ("temperature", True), ("num_ctx", 1.5), ("use_mmap", 1), ("seed", 2**63), ("top_p", 1.1)],
)
def test_options_are_not_converted_and_have_bounds(option: str, value: object) -> None:
    assert error_types({option: value}, ModelOptions)


def test_an_integral_number_counts_as_whole_as_in_json_schema() -> None:
    options = ModelOptions.model_validate({"num_ctx": 4e3, "seed": 1e3})
    assert (options.num_ctx, options.seed) == (4000, 1000)
    assert WorkerEntry.model_validate({"url": "http://a", "slots": 1e2}).slots == 100


def test_unknown_keys_are_refused_at_every_level() -> None:
    value = {"x": 1, "models": {"m": {"x": 1, "options": {"x": 1}}}, "workers": [{"url": "http://a", "x": 1}]}
    assert error_types(value) == ["extra_forbidden"] * 4


def test_the_shipped_json_schema_is_up_to_date() -> None:
    shipped = json.loads(DEFAULT_FILE.with_name("routing.schema.json").read_text())
    assert shipped == json_schema(), (
        "regenerate it: python -m vllama_pool.config.routing.schema > config/routing.schema.json"
    )

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import msgspec
import pytest

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.protocol.model_view import ModelView, merge
from vllama_pool.router.protocol.ollama.catalogue import ps, tags, version
from vllama_pool.workers.registry.record import ModelInfo

DIGEST = "ab" * 32
INFO = ModelInfo(
    name="HuggingFaceTB/SmolLM2",
    digest=DIGEST,
    size=269_060_552,
    modified_at=1_795_375_700.25,
    architecture="llama",
    parameter_count=134_515_008,
    quantization="BF16",
    context_length=2048,
    embedding_length=576,
    capabilities=("completion", "tools"),
    template="{{ messages }}",
    defaults={"temperature": 0.2, "stop": ["<|im_end|>", "\n"]},
    license="Apache-2.0",
    metadata={"block_count": 30, "attention.head_count": 9},
)
MODEL = ModelView("smollm2:135m", (INFO,), Defaults({"temperature": 0.7}))


def listed(*models: ModelView) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(tags(models))["models"]
    return result


@pytest.mark.rule(9)
def test_tags_have_the_keys_that_clients_use() -> None:
    [item] = listed(MODEL)
    assert re.fullmatch("[0-9a-f]{64}", item["digest"])
    assert [item | {"digest": ""}] == [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2026-11-22T19:28:20.25Z",
            "size": 269_060_552,
            "digest": "",
            "details": {
                "parent_model": "",
                "format": "safetensors",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "134.52M",
                "quantization_level": "BF16",
                "context_length": 2048,
                "embedding_length": 576,
            },
            "capabilities": ["completion", "tools"],
        }
    ]


@pytest.mark.rule(9)
def test_tags_and_ps_keys_are_in_ollamas_order() -> None:
    [item] = listed(MODEL)
    assert list(item) == ["name", "model", "modified_at", "size", "digest", "details", "capabilities"]
    assert list(item["details"]) == [
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
        "context_length",
        "embedding_length",
    ]


@pytest.mark.rule(9, 22)
def test_no_models_are_an_empty_list() -> None:
    assert tags([]) == ps([], lambda _: 0) == b'{"models":[]}'


@pytest.mark.rule(9)
def test_tags_are_sorted_by_modification_newest_first() -> None:
    models = [
        ModelView(name, (msgspec.structs.replace(INFO, modified_at=at),))
        for name, at in (("old", 1.0), ("b", 5.0), ("a", 5.0), ("new", 9.0))
    ]
    assert [item["name"] for item in listed(*models)] == ["new", "a", "b", "old"]


@pytest.mark.rule(22, 175)
@pytest.mark.trap(11)
def test_ps_lists_loaded_models_longest_lifetime_first() -> None:
    away = ModelView("away", (INFO,), loaded=False)
    other = ModelView("other", (INFO,))
    moments = {"smollm2:135m": 10**18, "other": 2 * 10**18, "away": 3 * 10**18}
    items = json.loads(ps([MODEL, other, away], moments.__getitem__))["models"]
    assert [item["name"] for item in items] == ["other", "smollm2:135m"]
    assert list(items[1]) == ["name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"]
    assert items[1]["size_vram"] == items[1]["size"]
    assert items[1]["expires_at"] == "2001-09-09T01:46:40Z"
    assert "context_length" not in items[1]["details"]


def test_version_is_one_json_object() -> None:
    assert version("0.33.0") == b'{"version":"0.33.0"}'


def test_equal_replicas_have_no_replicas_differ() -> None:
    assert listed(ModelView("x", (INFO, INFO, INFO))) == listed(ModelView("x", (INFO,)))


def test_differing_replicas_are_merged_safely_and_listed() -> None:
    other = msgspec.structs.replace(
        INFO, digest="cd" * 32, context_length=1024, capabilities=("completion", "thinking"), quantization="FP8"
    )
    unread = ModelInfo(name="HuggingFaceTB/SmolLM2", capabilities=("completion", "tools"))
    answers = {tags([ModelView("x", replicas)]) for replicas in itertools.permutations([INFO, other, unread])}
    assert len(answers) == 1
    [item] = json.loads(answers.pop())["models"]
    assert item["details"]["context_length"] == 1024
    assert item["capabilities"] == ["completion"]
    assert item["digest"] == merge("x", [msgspec.structs.replace(INFO, capabilities=("completion",))]).info.digest
    assert item["replicas_differ"] == {
        "digest": [DIGEST, "cd" * 32],
        "quantization_level": ["BF16", "FP8"],
        "context_length": [1024, 2048],
        "capabilities": ["completion", "thinking", "tools"],
    }


@pytest.mark.rule(9)
def test_a_virtual_model_shows_its_base_and_modification_time() -> None:
    made = ModelView("mario:latest", (INFO,), base="smollm2:135m", made_digest="ef" * 32, made_at=1_795_375_800.5)
    first, second = listed(MODEL, made)
    assert (first["name"], first["digest"], first["modified_at"]) == (
        "mario:latest",
        "ef" * 32,
        "2026-11-22T19:30:00.5Z",
    )
    assert (first["details"]["parent_model"], second["details"]["parent_model"]) == ("smollm2:135m", "")
    assert first["size"] == second["size"]


def test_different_vllm_versions_are_listed_in_replicas_differ() -> None:
    def differ(*engines: str) -> Any:
        return listed(ModelView("x", (INFO,) * len(engines), engines=engines))[0].get("replicas_differ")

    assert differ("0.32.0", "0.31.1", "0.32.0") == {"engine_version": ["0.31.1", "0.32.0"]}
    assert differ("0.32.0", "0.32.0") is None
    assert differ("0.32.0", "") is None, "not known is no difference"


def test_different_templates_are_listed_by_short_digests() -> None:
    other, unread = (msgspec.structs.replace(INFO, template=text) for text in ("{{ other }}", ""))
    [item] = listed(ModelView("x", (INFO, other, unread)))
    assert [len(digits) for digits in item["replicas_differ"].pop("template")] == [12, 12]
    assert item["replicas_differ"] == {}, "what is not known is no difference"


@pytest.mark.rule(176)
def test_unknown_capabilities_are_not_listed() -> None:
    info = msgspec.structs.replace(INFO, capabilities=("image", "telepathy", "audio", "completion"))
    assert listed(ModelView("x", (info,)))[0]["capabilities"] == ["completion", "audio"]


@pytest.mark.rule(175)
def test_unknown_values_are_shown_as_unknown() -> None:
    unread = ModelView("x:latest", (ModelInfo(name="x"),))
    [item] = listed(unread)
    assert item["modified_at"] == "1970-01-01T00:00:00Z"
    assert item["details"] == {
        "parent_model": "",
        "format": "safetensors",
        "family": "unknown",
        "families": None,
        "parameter_size": "unknown",
        "quantization_level": "unknown",
    }
    [running] = json.loads(ps([unread], lambda _: 10**18))["models"]
    assert running["size"] == running["size_vram"] > 0, "nothing in VRAM would read as running on the CPU"


@pytest.mark.rule(174)
def test_name_and_model_are_the_same_in_both_lists() -> None:
    for item in (*listed(MODEL), *json.loads(ps([MODEL], lambda _: 10**18))["models"]):
        assert item["name"] == item["model"] == "smollm2:135m"

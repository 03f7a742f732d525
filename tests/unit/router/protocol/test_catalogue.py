from __future__ import annotations

import itertools
import json
import re
from typing import Any

import msgspec
import pytest

from config.defaults import Defaults
from router.errors import BadRequest, Forbidden, ModelNotFound
from router.protocol.catalogue import CatalogueModel, human_number, merge, ps, tags, version
from router.protocol.naming import unknown_model
from router.protocol.show import ShowRequest, decode_show, not_found, show
from workers.record import ModelInfo

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
MODEL = CatalogueModel("smollm2:135m", (INFO,), Defaults({"temperature": 0.7}))


def listed(*models: CatalogueModel) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(tags(models))["models"]
    return result


def shown(model: CatalogueModel = MODEL, user_agent: str = "", **fields: Any) -> dict[str, Any]:
    request = decode_show(json.dumps({"model": "SmolLM2:135M"} | fields).encode())
    result: dict[str, Any] = json.loads(show(model, request, user_agent))
    return result


def test_tags_says_all_that_clients_read() -> None:
    assert listed(MODEL) == [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2026-11-22T19:28:20.25Z",
            "size": 269_060_552,
            "digest": DIGEST,
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


def test_an_empty_list_is_a_list() -> None:
    assert tags([]) == ps([], lambda _: 0) == b'{"models":[]}'


def test_tags_come_most_recently_modified_first() -> None:
    models = [
        CatalogueModel(name, (msgspec.structs.replace(INFO, modified_at=at),))
        for name, at in (("old", 1.0), ("b", 5.0), ("a", 5.0), ("new", 9.0))
    ]
    assert [item["name"] for item in listed(*models)] == ["new", "a", "b", "old"]


def test_r175_ps_shows_what_is_loaded_longest_lifetime_first() -> None:
    away = CatalogueModel("away", (INFO,), loaded=False)
    other = CatalogueModel("other", (INFO,))
    moments = {"smollm2:135m": 10**18, "other": 2 * 10**18, "away": 3 * 10**18}
    items = json.loads(ps([MODEL, other, away], moments.__getitem__))["models"]
    assert [item["name"] for item in items] == ["other", "smollm2:135m"]
    assert list(items[1]) == ["name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"]
    assert items[1]["size_vram"] == items[1]["size"]
    assert items[1]["expires_at"] == "2001-09-09T01:46:40Z"
    assert "context_length" not in items[1]["details"]


def test_version_is_plain() -> None:
    assert version("0.33.0") == b'{"version":"0.33.0"}'


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8_000_000_000, "8B"),
        (7_615_616_512, "7.6B"),
        (494_032_768, "494.03M"),
        (361_300, "361K"),
        (12, "12"),
        (2_000_000, "2M"),
    ],
)
def test_r175_parameter_sizes_are_written_as_ollama_does(number: int, text: str) -> None:
    assert human_number(number) == text


def test_equal_replicas_are_one_without_a_word() -> None:
    assert listed(CatalogueModel("x", (INFO, INFO, INFO))) == listed(CatalogueModel("x", (INFO,)))


def test_replicas_that_differ_are_merged_safely_and_the_difference_is_named() -> None:
    other = msgspec.structs.replace(
        INFO, digest="cd" * 32, context_length=1024, capabilities=("completion", "thinking"), quantization="FP8"
    )
    unread = ModelInfo(name="HuggingFaceTB/SmolLM2", capabilities=("completion", "tools"))
    answers = {tags([CatalogueModel("x", replicas)]) for replicas in itertools.permutations([INFO, other, unread])}
    assert len(answers) == 1
    [item] = json.loads(answers.pop())["models"]
    assert item["details"]["context_length"] == 1024
    assert item["capabilities"] == ["completion"]
    assert item["digest"] == DIGEST
    assert item["replicas_differ"] == {
        "digest": [DIGEST, "cd" * 32],
        "quantization_level": ["BF16", "FP8"],
        "context_length": [1024, 2048],
        "capabilities": ["completion", "thinking", "tools"],
    }


def test_r174_a_digest_is_always_64_hex_stable_and_its_own() -> None:
    def digest(name: str, **fields: Any) -> str:
        return merge(name, [ModelInfo(name=name, **fields)]).info.digest

    digests = [digest("a"), digest("b"), digest("a", capabilities=("completion", "tools")), digest("a", digest="short")]
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in digests)
    assert digest("a") == digest("a")
    assert len(set(digests[:3])) == 3


def test_r176_capabilities_stay_in_the_closed_set() -> None:
    info = msgspec.structs.replace(INFO, capabilities=("image", "telepathy", "audio", "completion"))
    assert listed(CatalogueModel("x", (info,)))[0]["capabilities"] == ["completion", "audio"]


def test_what_no_worker_knows_is_left_empty_and_parses() -> None:
    [item] = listed(CatalogueModel("x:latest", (ModelInfo(name="x"),)))
    assert item["modified_at"] == "1970-01-01T00:00:00Z"
    assert item["details"]["families"] is None
    assert "context_length" not in item["details"]
    facts = shown(CatalogueModel("x:latest", (ModelInfo(name="x"),)))
    assert facts["model_info"] == {"general.architecture": "unknown", "general.basename": "x"}
    assert "parameters" not in facts


def test_r111_show_has_the_keys_that_clients_read() -> None:
    answer = shown()
    assert answer["model_info"] == {
        "general.architecture": "llama",
        "general.basename": "smollm2",
        "general.parameter_count": 134_515_008,
        "llama.attention.head_count": 9,
        "llama.block_count": 30,
        "llama.context_length": 2048,
        "llama.embedding_length": 576,
    }
    assert answer["capabilities"] == ["completion", "tools"]
    assert answer["template"] == "{{ messages }}"
    assert answer["license"] == "Apache-2.0"
    assert answer["modified_at"] == "2026-11-22T19:28:20.25Z"
    assert list(answer)[:4] == ["license", "modelfile", "parameters", "template"]


def test_show_writes_parameters_in_columns_one_value_a_line() -> None:
    assert shown()["parameters"].split("\n") == [
        'stop                           "<|im_end|>"',
        'stop                           "\\n"',
        "temperature                    0.7",
    ]
    assert 'PARAMETER stop "<|im_end|>"\n' in shown()["modelfile"]
    assert "FROM smollm2:135m\n" in shown()["modelfile"]


def test_r109_verbose_changes_nothing() -> None:
    assert shown(verbose=True) == shown()


def test_r110_copilot_sees_the_name_that_it_asked_for() -> None:
    assert shown(user_agent="GitHubCopilotChat/0.30")["model_info"]["general.basename"] == "SmolLM2:135M"


def test_trap_12_show_takes_the_name_from_either_field() -> None:
    assert decode_show(b'{"model":"","name":"x","system":"","template":"","options":null}').wanted == "x"
    assert decode_show(b'{"NAME":"x","foo":1}').wanted == "x"
    assert ShowRequest(model="a", name="b").wanted == "a"


def test_r146_r148_show_refuses_in_its_own_words() -> None:
    for body in (b"{}", b'{"model":" "}', b"null"):
        with pytest.raises(BadRequest, match=r"^model is required$"):
            decode_show(body)
    assert not_found("Nope") == "model 'Nope:latest' not found"
    assert not_found("registry.ollama.ai/library/x:8b") == "model 'x:8b' not found"
    assert not_found("/odd/") == "model '/odd/' not found"


def test_r147_r149_names_nobody_serves() -> None:
    assert isinstance(unknown_model("nope", "gone"), ModelNotFound)
    bad = unknown_model("/x", "gone")
    assert (type(bad), bad.text) == (BadRequest, "invalid model name")
    cloud = unknown_model("x:cloud", "gone")
    assert (type(cloud), cloud.text) == (Forbidden, "ollama cloud is disabled: remote model is unavailable")
    assert unknown_model("x:local:cloud", "gone").status == 400

"""POST /api/show."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from tests.unit.router.protocol.ollama.test_catalogue import INFO, MODEL
from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import BadRequest, Forbidden
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama.not_found import NO_CLOUD_DETAILS, show_text, unknown_model
from vllama_pool.router.protocol.ollama.show import ShowRequest, decode_show, show
from vllama_pool.workers.registry.record import ModelInfo

MARIO = ModelView(
    "mario:latest",
    (INFO,),
    Defaults(
        {"temperature": 1, "stop": ["a b", "c"]},
        'You are "Mario".\nSay so.',
        ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": '"It\'s me!"'}),
    ),
    base="smollm2:135m",
    made_digest="ef" * 32,
    made_at=1_795_375_800.0,
    license="Mine",
)


def shown(model: ModelView = MODEL, user_agent: str = "", **fields: Any) -> dict[str, Any]:
    request = decode_show(json.dumps({"model": "SmolLM2:135M"} | fields).encode())
    result: dict[str, Any] = json.loads(show(model, request, user_agent))
    return result


def changed(**changes: Any) -> ModelView:
    return ModelView("x:latest", (msgspec.structs.replace(INFO, **changes),))


@pytest.mark.rule(10, 111)
def test_show_has_the_keys_that_clients_use() -> None:
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
    assert "context_length" not in answer["details"]


@pytest.mark.rule(10)
def test_show_keys_are_in_ollamas_order() -> None:
    assert list(shown(MARIO)) == [
        "license",
        "modelfile",
        "parameters",
        "template",
        "system",
        "details",
        "messages",
        "model_info",
        "capabilities",
        "modified_at",
    ]


@pytest.mark.rule(10)
def test_required_keys_are_present_for_an_unknown_model() -> None:
    nothing = ModelView("x:latest", (ModelInfo(name="x", capabilities=()),))
    answer = shown(nothing)
    assert answer["capabilities"] == []
    assert answer["model_info"] == {"general.architecture": "unknown", "general.basename": "x"}
    assert not {"parameters", "license", "template", "system", "messages"} & set(answer)


@pytest.mark.rule(111)
def test_model_info_has_numbers_and_the_smallest_context() -> None:
    short = msgspec.structs.replace(INFO, context_length=1024)
    facts = shown(ModelView("x", (INFO, short)))["model_info"]
    assert facts["llama.context_length"] == 1024
    for key, value in facts.items():
        assert isinstance(value, str if key in ("general.architecture", "general.basename") else int), key


@pytest.mark.rule(111)
def test_vision_keys_are_shown_for_vision_models_only() -> None:
    metadata = {"vision.block_count": 2, "block_count": 3}
    blind = shown(changed(metadata=metadata))["model_info"]
    assert not any(".vision." in key for key in blind)
    assert blind["llama.block_count"] == 3
    assert "llama.vision.block_count" in shown(changed(metadata=metadata, capabilities=("vision",)))["model_info"]


def test_parameters_are_one_value_per_line() -> None:
    text = shown()["parameters"]
    assert text.split("\n") == [
        'stop                           "<|im_end|>"',
        'stop                           "\\n"',
        "temperature                    0.7",
    ]
    for line in shown(MARIO)["parameters"].split("\n"):
        assert re.fullmatch(r'(\S+)\s+((?:".*")|\S+)', line), line


def test_a_template_that_looks_like_fill_in_the_middle_is_omitted() -> None:
    odd = "{{ message.Suffix }}"
    assert "template" not in shown(changed(template=odd))
    assert shown(changed(template=odd, capabilities=("completion", "insert")))["template"] == odd


@pytest.mark.rule(109)
def test_verbose_does_not_change_the_response() -> None:
    assert shown(verbose=True) == shown()
    assert not any(isinstance(value, list) for value in shown()["model_info"].values())


@pytest.mark.rule(110)
def test_copilot_gets_the_requested_name() -> None:
    assert shown(user_agent="GitHubCopilotChat/0.30")["model_info"]["general.basename"] == "SmolLM2:135M"
    assert shown(user_agent="curl GitHubCopilotChat/0.30")["model_info"]["general.basename"] == "smollm2"


@pytest.mark.rule(10)
def test_a_virtual_model_shows_its_own_fields() -> None:
    answer = shown(MARIO)
    assert answer["system"] == 'You are "Mario".\nSay so.'
    assert answer["messages"] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '"It\'s me!"'}]
    assert answer["details"]["parent_model"] == "smollm2:135m"
    assert answer["modified_at"] == "2026-11-22T19:30:00Z"
    assert answer["license"] == "Apache-2.0\nMine"
    assert answer["modelfile"].split("\n\n", 1)[1] == (
        "FROM smollm2:135m\n"
        'SYSTEM """You are "Mario".\nSay so."""\n'
        "PARAMETER stop a b\n"
        "PARAMETER stop c\n"
        "PARAMETER temperature 1\n"
        "MESSAGE user Hi\n"
        'MESSAGE assistant """"It\'s me!""""\n'
        'LICENSE """Apache-2.0\nMine"""\n'
    )


@pytest.mark.rule(10)
def test_a_served_models_modelfile_names_the_model_itself() -> None:
    assert "\nFROM smollm2:135m\n" in shown()["modelfile"]
    assert "TEMPLATE" not in shown()["modelfile"]


@pytest.mark.trap(12)
def test_show_accepts_model_or_name() -> None:
    assert decode_show(b'{"model":"","name":"x","system":"","template":"","options":null}').requested == "x"
    assert decode_show(b'{"NAME":"x","foo":1}').requested == "x"
    assert ShowRequest(model="a", name="b").requested == "a"


@pytest.mark.rule(146, 148)
def test_show_normalises_the_name_of_an_unknown_model() -> None:
    for body in (b"{}", b'{"model":" "}', b"null"):
        with pytest.raises(BadRequest, match=r"^model is required$"):
            decode_show(body)
    assert show_text("Nope") == "model 'Nope:latest' not found"
    assert show_text("registry.ollama.ai/library/x:8b") == "model 'x:8b' not found"
    assert show_text("/odd/") == "model '/odd/' not found"


@pytest.mark.rule(38)
def test_show_has_its_own_text_for_cloud_models() -> None:
    refused = unknown_model("x:8b-cloud", show_text("x:8b-cloud"), cloud=NO_CLOUD_DETAILS)
    assert (type(refused), refused.status) == (Forbidden, 403)
    assert refused.text == "ollama cloud is disabled: remote model details are unavailable"


def test_an_adapter_names_its_base_in_model_info_only() -> None:
    answer = shown(ModelView("ada:latest", (msgspec.structs.replace(INFO, parent="smollm2:135m"),)))
    assert answer["model_info"]["general.base_model.0.name"] == "smollm2:135m"
    assert answer["details"]["parent_model"] == ""

"""Lists of models for OpenAI and Anthropic, and the launcher's recommendations."""

import json

import pytest

from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.openai import models
from vllama_pool.workers.registry.record import ModelInfo


def model(name: str, **info: object) -> ModelView:
    return ModelView(name=name, replicas=(ModelInfo(name=name, **info),))  # type: ignore[arg-type]


CHAT = model("chat:8b", modified_at=1700000000.9, capabilities=("completion",), context_length=4096)
LARGE = model("org/large:latest", modified_at=1800000000.0, capabilities=("completion",), parameter_count=8 * 10**9)
EMBED = model("embed:latest", capabilities=("embedding",))


@pytest.mark.rule(30, 117)
def test_openai_models_are_listed_newest_first() -> None:
    assert json.loads(models.openai_models([EMBED, CHAT, LARGE])) == {
        "object": "list",
        "data": [
            {"id": "org/large:latest", "object": "model", "created": 1800000000, "owned_by": "org"},
            {"id": "chat:8b", "object": "model", "created": 1700000000, "owned_by": "library"},
            {"id": "embed:latest", "object": "model", "created": 0, "owned_by": "library"},
        ],
    }


@pytest.mark.rule(117)
def test_no_openai_models_are_an_empty_list() -> None:
    assert models.openai_models([]) == b'{"object":"list","data":[]}'


@pytest.mark.rule(31, 117)
def test_one_model_has_the_requested_name() -> None:
    assert json.loads(models.openai_model(LARGE, "Org/Large"))["id"] == "Org/Large"
    assert json.loads(models.openai_model(LARGE, "a/b/c/d"))["owned_by"] == "library"


def test_anthropics_list_is_one_page_of_all_models_newest_first() -> None:
    assert json.loads(models.anthropic_models([CHAT, LARGE])) == {
        "data": [
            {
                "type": "model",
                "id": "org/large:latest",
                "display_name": "org/large:latest",
                "created_at": "2027-01-15T08:00:00Z",
                "lifecycle": "active",
            },
            {
                "type": "model",
                "id": "chat:8b",
                "display_name": "chat:8b",
                "created_at": "2023-11-14T22:13:20Z",
                "lifecycle": "active",
                "max_input_tokens": 4096,
            },
        ],
        "has_more": False,
        "first_id": "org/large:latest",
        "last_id": "chat:8b",
    }
    assert models.anthropic_models([]) == b'{"data":[],"has_more":false,"first_id":null,"last_id":null}'


def test_one_model_of_anthropic_has_the_requested_name() -> None:
    found = json.loads(models.anthropic_model(EMBED, "Embed"))
    assert (found["id"], found["type"], found["created_at"]) == ("Embed", "model", "1970-01-01T00:00:00Z")


@pytest.mark.rule(21)
def test_models_with_completion_are_recommended() -> None:
    assert json.loads(models.recommendations([CHAT, LARGE, EMBED])) == {
        "recommendations": [
            {"model": "chat:8b", "description": "served by this pool", "context_length": 4096},
            {"model": "org/large:latest", "description": "8B parameters, served by this pool"},
        ]
    }
    assert models.recommendations([EMBED]) == b'{"recommendations":[]}'

from __future__ import annotations

import pytest

from tests.support.protocol import MODEL
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.openai.model_kinds import EMBEDDING
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.workers.registry.record import ModelInfo

EMBEDS = '"x" does not support embeddings: use an embedding model'


def of(*capabilities: str) -> ModelInfo:
    return ModelInfo(name="m", capabilities=capabilities)


def test_a_chat_model_is_refused_where_an_embedding_model_is_needed() -> None:
    with pytest.raises(BadRequest) as caught:
        EMBEDDING.require("x", MODEL)
    assert (caught.value.status, caught.value.text, caught.value.param) == (400, EMBEDS, "model")


@pytest.mark.parametrize("capabilities", [("embedding",), (), ("completion", "embedding")])
def test_a_model_that_may_be_of_the_right_kind_is_tried(capabilities: tuple[str, ...]) -> None:
    EMBEDDING.require("x", of(*capabilities))


def test_a_missing_route_of_the_worker_names_the_kind_too() -> None:
    with pytest.raises(Refused) as caught:
        EMBEDDING.explain(Refused(WRONG_TASK, status=404), "x")
    assert (caught.value.status, caught.value.text) == (400, EMBEDS)


def test_other_refusals_are_left_alone() -> None:
    EMBEDDING.explain(Refused("too hot", status=400), "x")

from __future__ import annotations

import pytest

from tests.support.protocol import MODEL
from vllama_pool.router.errors import BadRequest, Refused
from vllama_pool.router.protocol.openai.model_kinds import EMBEDDING, RERANKING, SCORING, Kind
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.workers.registry.record import ModelInfo

EMBEDS = '"x" does not support embeddings: use an embedding model'


def of(*capabilities: str) -> ModelInfo:
    return ModelInfo(name="m", capabilities=capabilities)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (EMBEDDING, EMBEDS),
        (RERANKING, '"x" does not support reranking: use a reranker (a cross-encoder) or an embedding model'),
        (SCORING, '"x" does not support scores: use a cross-encoder or an embedding model'),
    ],
)
def test_a_chat_model_is_refused_with_the_kind_that_is_needed(kind: Kind, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kind.require("x", MODEL)
    assert (caught.value.status, caught.value.text, caught.value.param) == (400, text, "model")


@pytest.mark.parametrize("capabilities", [("embedding",), (), ("completion", "embedding")])
def test_a_model_that_may_be_of_the_right_kind_is_tried(capabilities: tuple[str, ...]) -> None:
    EMBEDDING.require("x", of(*capabilities))


def test_a_missing_route_of_the_worker_names_the_kind_too() -> None:
    with pytest.raises(Refused) as caught:
        EMBEDDING.explain(Refused(WRONG_TASK, status=404), "x")
    assert (caught.value.status, caught.value.text) == (400, EMBEDS)


def test_other_refusals_are_left_alone() -> None:
    EMBEDDING.explain(Refused("too hot", status=400), "x")

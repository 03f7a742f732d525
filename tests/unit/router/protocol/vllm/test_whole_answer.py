from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, both_reasonings


def answer(**fields: Any) -> bytes:
    return json.dumps({"id": "1", "model": "served", **fields}, separators=(",", ":")).encode()


def collected(document: bytes, name: str = "Mine") -> tuple[WholeAnswer, bytes]:
    whole = WholeAnswer(name, both_reasonings)
    assert whole.feed(document[:10]) + whole.feed(document[10:]) == b""
    assert (whole.begun, whole.ready) == (True, False)
    return whole, whole.finish()


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"message": "boom", "code": 503}, StreamFailure(503, "boom")),
        ({"message": "boom", "type": "InternalServerError", "code": "oops"}, StreamFailure(500, "boom")),
        ("boom", StreamFailure(500, "boom")),
        ({"message": "too many", "code": 400}, StreamFailure(400, "too many")),
        ({}, StreamFailure(500, "unknown error")),
    ],
)
@pytest.mark.parametrize("others", [{}, {"choices": [{"finish_reason": "stop"}]}, {"type": "error"}])
def test_an_error_within_a_200_is_a_failure(error: Any, failure: StreamFailure, others: dict[str, Any]) -> None:
    whole, _ = collected(answer(error=error, **others))
    assert (whole.done, whole.failure) == (False, failure)


def test_an_error_of_null_is_none() -> None:
    whole, out = collected(answer(error=None, choices=[{"finish_reason": "stop"}]))
    assert (whole.done, whole.failure) == (True, None)
    assert json.loads(out)["error"] is None


def test_a_document_passes_with_the_models_name_as_the_client_spelled_it() -> None:
    document = answer(choices=[{"finish_reason": "stop"}], usage={"prompt_tokens": 4, "completion_tokens": 2})
    whole, out = collected(document)
    assert out == document.replace(b"served", b"Mine")
    assert (whole.done, whole.failure, whole.usage) == (True, None, Usage(4, 2, "stop"))


def test_a_name_in_another_object_stays() -> None:
    document = b'{"metadata":{"model":"served"},"model":"served","usage":{"input_tokens":3,"output_tokens":1}}'
    whole, out = collected(document)
    assert json.loads(out) == {
        "metadata": {"model": "served"},
        "model": "Mine",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    assert whole.usage == Usage(3, 1, "")


def test_reasoning_has_both_spellings() -> None:
    _, out = collected(answer(choices=[{"message": {"reasoning": 'a\\b "c"'}}]))
    assert json.loads(out)["choices"][0]["message"] == {"reasoning": 'a\\b "c"', "reasoning_content": 'a\\b "c"'}


def test_reasoning_of_null_has_one() -> None:
    document = answer(choices=[{"message": {"reasoning": None}}])
    assert collected(document, "served")[1] == document


@pytest.mark.parametrize(("reason", "status"), [("abort", 503), ("error", 500)])
def test_an_answer_that_vllm_gave_up_is_a_failure(reason: str, status: int) -> None:
    whole, _ = collected(answer(choices=[{"finish_reason": "stop"}, {"finish_reason": reason}]))
    assert (whole.done, whole.failure) == (False, StreamFailure(status, "the worker stopped the request"))


@pytest.mark.parametrize(("status", "code"), [("failed", 500), ("cancelled", 503)])
def test_a_response_that_vllm_gave_up_is_a_failure(status: str, code: int) -> None:
    whole, _ = collected(answer(status=status, output=[]))
    assert (whole.done, whole.failure) == (False, StreamFailure(code, "the worker stopped the request"))


@pytest.mark.parametrize("document", [b'{"id":"1","model"', b"[1,2,3,4,5,6]", b"upstream connect error"])
def test_anything_but_an_object_is_a_failure(document: bytes) -> None:
    whole, _ = collected(document)
    assert (whole.done, whole.failure) == (False, StreamFailure(502, "the worker's answer is not valid JSON"))

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm.whole_answer import (
    ReadAnswer,
    WholeAnswer,
    both_reasonings,
    read_choices,
    read_count,
    read_list,
    read_message,
    read_response,
    read_text_of_tokens,
    read_transcript,
)

CHOICE = {"message": {"content": "Hi"}, "finish_reason": "stop"}


def answer(**fields: Any) -> bytes:
    return json.dumps({"id": "1", "model": "served", **fields}, separators=(",", ":")).encode()


def collected(document: bytes, name: str = "Mine", read: ReadAnswer = read_choices) -> tuple[WholeAnswer, bytes]:
    whole = WholeAnswer(name, read, both_reasonings)
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
    whole, out = collected(answer(error=None, choices=[CHOICE]))
    assert (whole.done, whole.failure) == (True, None)
    assert json.loads(out)["error"] is None


def test_a_document_passes_with_the_models_name_as_the_client_spelled_it() -> None:
    document = answer(choices=[CHOICE], usage={"prompt_tokens": 4, "completion_tokens": 2})
    whole, out = collected(document)
    assert out == document.replace(b"served", b"Mine")
    assert (whole.done, whole.failure, whole.usage) == (True, None, Usage(4, 2, "stop"))


def test_a_name_in_another_object_stays() -> None:
    document = (
        b'{"metadata":{"model":"served"},"model":"served","status":"completed","output":[],'
        b'"usage":{"input_tokens":3,"output_tokens":1}}'
    )
    whole, out = collected(document, read=read_response)
    assert json.loads(out) == {
        "metadata": {"model": "served"},
        "model": "Mine",
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    assert whole.usage == Usage(3, 1, "completed")


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
    whole, _ = collected(answer(status=status, output=[]), read=read_response)
    assert (whole.done, whole.failure) == (False, StreamFailure(code, "the worker stopped the request"))


@pytest.mark.parametrize(
    "document",
    [
        *(b'{"id":"1","model"', b"upstream connect error", b"<html>502</html>", b"\xff" * 20),
        b'{"choices":[{"message":{"content":"half a character: \xc3"}}]}',
    ],
)
def test_a_document_that_is_not_json_is_a_failure(document: bytes) -> None:
    whole, _ = collected(document)
    assert (whole.done, whole.failure) == (False, StreamFailure(502, "the worker's answer is not valid JSON"))


ANSWERS: dict[str, tuple[ReadAnswer, bytes]] = {
    "a chat": (read_choices, b'{"choices":[{"finish_reason":"stop","message":{"content":null}}]}'),
    "a completion": (read_choices, b'{"choices":[{"finish_reason":"length","text":""}]}'),
    "a message": (read_message, b'{"type":"message","stop_reason":"end_turn","content":[]}'),
    "a response": (read_response, b'{"status":"incomplete","output":[],"text":{"format":{"type":"text"}}}'),
    "embeddings": (read_list, b'{"data":[{"embedding":[1.0]}]}'),
    "ranks": (read_list, b'{"results":[{"index":0,"document":{"text":"hi"}}]}'),
    "a count of vLLM": (read_count, b'{"count":0,"max_model_len":8}'),
    "a count of Anthropic": (read_count, b'{"input_tokens":3,"context_management":null}'),
    "the text of no tokens": (read_text_of_tokens, b'{"prompt":""}'),
    "a transcript of silence": (read_transcript, b'{"text":""}'),
}


@pytest.mark.parametrize(("read", "document"), ANSWERS.values(), ids=ANSWERS.keys())
def test_each_api_knows_its_own_answers(read: ReadAnswer, document: bytes) -> None:
    whole, out = collected(document, read=read)
    assert (whole.done, whole.failure, out) == (True, None, document)


@pytest.mark.parametrize("read", {read for read, _ in ANSWERS.values()})
@pytest.mark.parametrize(
    "document",
    [
        *(b"{}             ", b"[]             ", b"null           ", b'"a long enough text"', b"12345678901234"),
        *(b'{"choices":[],"data":[],"results":[]}', b'{"choices":null,"data":null,"text":null,"status":null}'),
        *(b'{"object":"list","model":"m"}', b'{"detail":"Not Found"}', b'{"choices":{},"data":{},"count":"1"}'),
        *(b'{"choices":[{}]}', b'{"choices":[{"index":0,"finish_reason":"stop","message":null}]}'),
        *(b'{"choices":[{"message":{}},{}]}', b'{"choices":[{"message":"Hi","text":["Hi"]}]}'),
        *(b'{"type":"message","stop_reason":"end_turn"}', b'{"status":"completed","output":null}'),
        b'{"type":1,"status":1,"prompt":1,"text":1,"input_tokens":"1","data":"1"}',
    ],
)
def test_json_that_is_not_an_answer_is_a_failure(read: ReadAnswer, document: bytes) -> None:
    whole, out = collected(document, read=read)
    assert (whole.done, whole.failure, out) == (
        False,
        StreamFailure(502, "the worker's response is not an answer"),
        b"",
    )


@pytest.mark.parametrize("usage", [{"prompt_tokens": -5}, {"prompt_tokens": 1, "completion_tokens": 1 << 60}])
def test_an_impossible_count_of_tokens_is_a_failure(usage: dict[str, int]) -> None:
    whole, _ = collected(answer(choices=[CHOICE], usage=usage))
    assert (whole.done, whole.usage, whole.failure and whole.failure.status) == (False, Usage(), 502)


def test_a_document_that_cannot_be_adjusted_is_a_failure() -> None:
    whole = WholeAnswer("Mine", read_choices, lambda body: msgspec.json.encode(msgspec.json.decode(body, type=int)))
    whole.feed(answer(choices=[CHOICE]))
    assert (whole.finish(), whole.done) == (b"", False)
    assert whole.failure == StreamFailure(502, "the worker's response is not an answer")

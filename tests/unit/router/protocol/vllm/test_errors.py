from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import AttemptFailed, Busy, ContextTooLong, Faulty, Lost, ModelGone, Refused, Unavailable
from vllama_pool.router.protocol.operation import StreamFailure
from vllama_pool.router.protocol.vllm.errors import (
    CONTEXT_EXCEEDED,
    classify,
    classify_stream_failure,
    classify_text,
    explain_upstream,
)


def body(message: str, kind: str = "BadRequestError", code: Any = 400, param: Any = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


NOT_FOUND = body("The model `nope` does not exist. Valid aliases: tiny, secret-name.", "NotFoundError", 404, "model")
TOO_LONG = body(
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=2049)"
)
VALIDATION = body(
    "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid string', "
    "'input': '<list>'}\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': \"List mustn't be long\", 'ctx': {}}",
    "Bad Request",
)
BUSY = body("The engine is currently busy and cannot accept new requests. Please try again later", "x", 503)
DRAINING = body("cannot schedule new futures after shutdown", "InternalServerError", 500)
DEAD = body("EngineCore encountered an issue. See stack trace (above) for the root cause.", "InternalServerError", 500)


@pytest.mark.rule(167)
@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, NOT_FOUND, "The model `nope` does not exist."),
        (400, TOO_LONG, CONTEXT_EXCEEDED),
        (400, VALIDATION, "stop: Input should be a valid string; stop: List mustn't be long"),
        (400, body("bad thing (parameter=seed, value=1.5)"), "bad thing"),
        (400, body("Grammar error: upper bound below 3"), "Grammar error: upper bound below 3"),
        (401, b'{"error":"Unauthorized"}', "Unauthorized"),
        (404, b'{"detail":"Not Found"}', "Not Found"),
        (422, b'{"detail":[{"msg":"field required","loc":["a"]},{"msg":"b"}]}', "field required; b"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (502, b"<html>nginx</html>", "the worker answered with HTTP status 502"),
        (500, b"", "the worker answered with HTTP status 500"),
        (500, b"{}", "the worker answered with HTTP status 500"),
        (500, b"\xff\xfe", "\ufffd\ufffd"),
        (500, b"[" * 100_000, None),
    ],
)
def test_upstream_errors_become_one_plain_text(status: int, body: bytes, text: str | None) -> None:
    explanation = explain_upstream(status, body)
    assert text is None or explanation == text
    assert len(explanation) <= 2000


@pytest.mark.rule(145)
def test_clients_recognise_the_context_text() -> None:
    assert "context" in CONTEXT_EXCEEDED
    assert "longer" in CONTEXT_EXCEEDED


@pytest.mark.rule(167)
def test_error_texts_omit_served_names() -> None:
    assert "secret-name" not in explain_upstream(404, NOT_FOUND)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, NOT_FOUND, ModelGone),
        (404, b'{"detail":"Not Found"}', Refused),
        (404, b"", Refused),
        (405, b'{"detail":"Method Not Allowed"}', Refused),
        (400, TOO_LONG, ContextTooLong),
        (429, body("slow down", "x", 429), Busy),
        (503, BUSY, Busy),
        (503, body("no healthy upstream", "x", 503), Unavailable),
        (502, b"", Unavailable),
        (504, b"", Unavailable),
        (500, DRAINING, Lost),
        (500, DEAD, Lost),
        (503, DEAD, Lost),
        (500, body("CUDA out of memory", "InternalServerError", 500), Faulty),
    ],
)
def test_responses_are_classified_by_status_and_text(status: int, body: bytes, kind: type[AttemptFailed]) -> None:
    failure = classify(status, body)
    assert type(failure) is kind
    assert failure.status == status


def test_an_error_event_is_classified_by_its_own_code() -> None:
    assert type(classify_text(503, "The engine is currently busy and")) is Busy
    assert type(classify_text(400, "bad")) is Refused


@given(
    st.integers(400, 599),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.dictionaries(st.sampled_from(["error", "message", "detail", "code", "msg"]), inner, max_size=3)
            | st.lists(inner, max_size=2)
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_error_body_is_explained_and_classified(status: int, body: bytes) -> None:
    failure = classify(status, body)
    assert isinstance(failure, AttemptFailed)
    assert failure.text


@pytest.mark.parametrize("body", [b'{"error":""}', b'{"error":{"message":""}}', b"", b"<html>", b"{}"])
def test_an_error_without_text_gets_one(body: bytes) -> None:
    assert explain_upstream(418, body)


@pytest.mark.parametrize("status", [101, 200, 204, 206, 301, 302, 304, 399, 600, 999])
def test_a_status_outside_400_to_599_becomes_502(status: int) -> None:
    failure = classify(status, b"")
    assert (type(failure), failure.status) == (Unavailable, 502)


@pytest.mark.parametrize("status", [408, 421, 425])
def test_a_proxys_refusal_of_the_connection_is_no_refusal_of_the_request(status: int) -> None:
    failure = classify(status, b"<html>Request Time-out</html>")
    assert (type(failure), failure.status) == (Unavailable, 502)


def test_an_unreadable_detail_is_omitted() -> None:
    assert classify(400, b'{"detail":"\xff"}').text == "the worker answered with HTTP status 400"
    assert classify(400, b'{"detail":' + b"[" * 100_000 + b"]" * 100_000 + b"}").text


@pytest.mark.parametrize("filler", [" ", "(parameter=", "\n", "Valid aliases"])
def test_a_long_quoted_prompt_is_matched_quickly(filler: str) -> None:
    quoted = (filler * 250_000)[:250_000]
    began = time.process_time()
    assert classify(400, body(f"bad: {quoted} x")).text.startswith("bad:")
    assert time.process_time() - began < 1


@pytest.mark.trap(1)
def test_invalid_model_output_does_not_blame_the_worker() -> None:
    own = classify_stream_failure(StreamFailure(500, "bad arguments", model_at_fault=True))
    assert (type(own), own.status, own.text) == (Refused, 500, "bad arguments")
    assert type(classify_stream_failure(StreamFailure(500, "engine died"))) is Faulty


def test_a_refusal_names_vllms_parameter() -> None:
    body = b'{"error":{"message":"temperature must be in [0, 2]","type":"BadRequestError","param":"temperature"}}'
    failure = classify(400, body)
    assert (failure.param, failure.original) == ("temperature", "")


def test_a_prompt_that_is_too_long_keeps_vllms_own_text() -> None:
    text = "This model's maximum context length is 8 tokens."
    failure = classify(400, b'{"error":{"message":"%b","param":"input_tokens"}}' % text.encode())
    assert (failure.text, failure.original) == (CONTEXT_EXCEEDED, text)


@pytest.mark.parametrize(
    ("text", "tokens", "limit", "prompt_fits"),
    [
        (
            "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input "
            "tokens, which exceeds this limit even without any output tokens.",
            1025,
            1024,
            False,
        ),
        (
            "This model's maximum context length is 8 tokens. However, your prompt contains 90 characters (more than "
            "80 characters, which is the upper bound for 8 input tokens).",
            0,
            8,
            False,
        ),
        ("Input length (2049) exceeds model's maximum context length (2048).", 2049, 2048, False),
        (
            "This model's maximum context length is 100 tokens. However, you requested 120 tokens (20 in the messages, "
            "100 in the completion).",
            20,
            100,
            True,
        ),
        (
            "You passed 12 input tokens and requested 2048 output tokens. However, the model's context length is only "
            "2048 tokens, resulting in a maximum input length of 0 tokens.",
            12,
            2048,
            True,
        ),
        ("The decoder prompt is longer than the maximum model length of 64.", 0, 64, False),
        ("This model's maximum context length is odd.", 0, 0, False),
    ],
)
def test_a_refusal_for_its_length_tells_tokens_and_context(
    text: str, tokens: int, limit: int, prompt_fits: bool
) -> None:
    failure = classify(400, body(text))
    assert isinstance(failure, ContextTooLong)
    assert (failure.tokens, failure.limit, failure.prompt_fits) == (tokens, limit, prompt_fits)

from __future__ import annotations

import pytest

from tests.support.protocol import CLOCK, MODEL, TIMING, outgoing, run, stream
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.operation import Operation, UpstreamRequest
from vllama_pool.router.protocol.table import operations


def by_name() -> dict[str, Operation[object]]:
    return {operation.name: operation for operation in operations(CLOCK)}


def test_the_table_has_every_inference_endpoint() -> None:
    assert {(operation.name, operation.path) for operation in operations(CLOCK)} == {
        ("chat", "/api/chat"),
        ("generate", "/api/generate"),
        ("embed", "/api/embed"),
        ("embeddings", "/api/embeddings"),
        ("v1 chat", "/v1/chat/completions"),
        ("v1 completions", "/v1/completions"),
        ("v1 embeddings", "/v1/embeddings"),
        ("v1 messages", "/v1/messages"),
        ("v1 count tokens", "/v1/messages/count_tokens"),
        ("v1 responses", "/v1/responses"),
        ("rerank", "/rerank"),
        ("v1 rerank", "/v1/rerank"),
        ("v2 rerank", "/v2/rerank"),
        ("score", "/score"),
        ("v1 score", "/v1/score"),
        ("tokenize", "/tokenize"),
        ("detokenize", "/detokenize"),
        ("v1 transcriptions", "/v1/audio/transcriptions"),
        ("v1 translations", "/v1/audio/translations"),
    }


@pytest.mark.parametrize(("name", "captured"), [("chat", "chat-plain"), ("generate", "generate-ids")])
@pytest.mark.parametrize("streamed", [True, False])
def test_an_operation_translates_a_body_into_a_response(name: str, captured: str, streamed: bool) -> None:
    operation = by_name()[name]
    body = b'{"model":"X","prompt":"hi","messages":[{"role":"user","content":"hi"}],"stream":'
    request = operation.decode(body + (b"true}" if streamed else b"false}"))
    assert (request.model, request.stream) == ("X", streamed)  # type: ignore[attr-defined]
    assert operation.check(request, MODEL, NO_DEFAULTS) is None
    assert outgoing(operation.prepare(request, MODEL, NO_DEFAULTS)).path == "/v1/chat/completions"
    answer = run(operation.translator(request, TIMING, CLOCK), stream(captured))  # type: ignore[arg-type]
    assert b'"done":true' in answer
    expected = "application/x-ndjson" if streamed else "application/json; charset=utf-8"
    assert operation.content_type(request) == expected
    assert answer.endswith(b"\n") == streamed


@pytest.mark.rule(148)
def test_not_found_texts_use_the_endpoints_quotes() -> None:
    for name, operation in by_name().items():
        embeds = "embed" in name
        expected = 'model "Llama3" not found, try pulling it first' if embeds else "model 'Llama3' not found"
        assert operation.not_found("Llama3") == expected


@pytest.mark.rule(40, 43)
@pytest.mark.parametrize("name", ["embed", "embeddings"])
def test_an_embedding_operation_responds_with_one_object(name: str) -> None:
    operation = by_name()[name]
    request = operation.decode(b'{"model":"X","prompt":"hi","input":["hi"],"stream":true}')
    assert (request.model, request.stream) == ("X", False)  # type: ignore[attr-defined]
    step = operation.prepare(request, MODEL, NO_DEFAULTS)
    assert isinstance(step, UpstreamRequest)
    assert step.path == "/v1/embeddings"
    translator = operation.translator(request, TIMING, CLOCK)
    assert translator.feed(b'{"data":[{"embedding":[1.0]}],"usage":{"prompt_tokens":3}}') == b""
    assert translator.finish().startswith(
        b'{"model":"X","embeddings":[[1]],' if name == "embed" else b'{"embedding":[1]}'
    )
    assert operation.content_type(request) == "application/json; charset=utf-8"

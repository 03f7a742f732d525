"""Requests to /api/embed and /api/embeddings, and the requests to vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import ClientError, Refused, Unable
from vllama_pool.router.protocol.ollama import embed
from vllama_pool.router.protocol.ollama.embed import EmbedRequest
from vllama_pool.router.protocol.ollama.not_found import embedding_text
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED, classify
from vllama_pool.workers.registry.record import ModelInfo

MINILM = ModelInfo(name="all-minilm", context_length=256, capabilities=("embedding",))
NULLS: dict[str, None] = {"num_ctx": None, "num_gpu": None, "temperature": None, "stop": None, "mirostat": None}
"""Some of LangChain's options, which are null unless set."""


def embed_request(**fields: Any) -> EmbedRequest:
    return embed.decode_embed(json.dumps({"model": "MiniLM", **fields}).encode())


def embeddings_request(**fields: Any) -> EmbedRequest:
    return embed.decode_embeddings(json.dumps({"model": "MiniLM", **fields}).encode())


def refusal(decode: Any, body: str) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        decode(body.encode())
    return caught.value.status, caught.value.text


def upstream_body(step: NextStep) -> dict[str, Any]:
    assert isinstance(step, UpstreamRequest)
    assert step.path == "/v1/embeddings"
    found: dict[str, Any] = json.loads(step.body)
    return found


def prepared(request: EmbedRequest, info: ModelInfo = MINILM, defaults: Defaults = NO_DEFAULTS) -> NextStep:
    return embed.prepare(request, info, defaults)


def counted(step: NextStep, *counts: int) -> tuple[NextStep, list[str]]:
    """Answer preflight requests with these counts. Returns the next step and the texts."""
    texts = []
    for count in counts:
        assert isinstance(step, PreflightRequest)
        assert step.path == "/tokenize"
        question = json.loads(step.body)
        assert question["model"] == "all-minilm"
        texts.append(question["prompt"])
        step = step.then(json.dumps({"count": count, "max_model_len": 256}).encode())
    return step, texts


# --- requests ---


@pytest.mark.rule(100)
@pytest.mark.parametrize(
    ("given", "texts"),
    [("", []), (None, []), ([], []), ("why", ["why"]), ([""], [""]), (["b", "a", "b"], ["b", "a", "b"])],
    ids=repr,
)
def test_input_is_a_text_a_list_of_texts_or_empty(given: Any, texts: list[str]) -> None:
    assert embed_request(input=given).texts == texts
    assert json.loads(embed_request(input=given).encoded) == texts


def test_texts_are_sent_without_html_escapes() -> None:
    """Escaping a large batch would delay streams."""
    step = prepared(embed_request(input=["<b>&"]))
    assert isinstance(step, UpstreamRequest)
    assert b'"input":["<b>&"]' in step.body


@pytest.mark.rule(100)
def test_an_absent_input_is_empty() -> None:
    assert embed_request().texts == []


@pytest.mark.rule(100, 166)
@pytest.mark.parametrize("given", [5, 0, 1.5, True, False, {}, {"a": "b"}, [1], ["a", 1], [None], ["a", None], [["a"]]])
def test_an_invalid_input_is_reported_before_a_missing_model(given: Any) -> None:
    body = json.dumps({"input": given})
    assert refusal(embed.decode_embed, body) == (400, "invalid input type")


@pytest.mark.rule(146)
@pytest.mark.trap(6)
def test_a_missing_model_has_each_endpoints_text() -> None:
    for model in ("", '"model": "", ', '"model": null, ', '"model": " ", '):
        status, text = refusal(embed.decode_embed, f'{{{model}"input": "x"}}')
        assert (status, text.replace("' '", "''")) == (404, "model '' not found")
        assert refusal(embed.decode_embeddings, f'{{{model}"prompt": "x"}}') == (400, "model is required")


@pytest.mark.rule(148)
def test_an_unknown_model_is_named_in_double_quotes() -> None:
    assert embedding_text("Llama3") == 'model "Llama3" not found, try pulling it first'


@pytest.mark.parametrize("decode", [embed.decode_embed, embed.decode_embeddings])
def test_invalid_embed_bodies_are_refused_with_gos_texts(decode: Any) -> None:
    assert refusal(decode, "") == (400, "missing request body")
    assert refusal(decode, '{"model": x}')[1] == "invalid character 'x' looking for beginning of value"
    assert refusal(decode, '{"model": 5}')[1].endswith("of type string")
    assert refusal(decode, '{"model": "m", "options": []}')[1].endswith("of type map[string]interface {}")
    assert refusal(decode, '{"model": "m", "keep_alive": "5"}') == (400, 'time: missing unit in duration "5"')


def test_embed_bodies_are_decoded_leniently() -> None:
    body = (
        b' {"MODEL": "m", "Input": ["a", "b"], "Truncate": false, "made_up": 1, "DIMENSIONS": 3.0, "options": null} x'
    )
    request = embed.decode_embed(body)
    assert (request.model, request.texts, request.truncate, request.dimensions) == ("m", ["a", "b"], False, 3)
    again = embed.decode_embeddings(b'{"Model": "m", "PROMPT": "a", "input": "ignored"}')
    assert (again.model, again.texts) == ("m", ["a"])


def test_invalid_utf8_in_a_text_is_replaced() -> None:
    assert embed.decode_embed(b'{"model": "m", "input": "a\\ud83e"}').texts == ["a\ufffd"]


# --- responses without a worker ---


@pytest.mark.rule(91, 100)
@pytest.mark.parametrize("given", ["", None, []])
def test_an_empty_input_is_a_load(given: Any) -> None:
    reply = embed.check(embed_request(input=given, keep_alive=0, options=NULLS), MINILM)
    assert reply is not None
    assert (reply.status, reply.body) == (200, b'{"model":"MiniLM","embeddings":[]}')


@pytest.mark.rule(91)
def test_an_empty_prompt_is_a_load() -> None:
    reply = embed.check(embeddings_request(prompt=""), MINILM)
    assert reply is not None
    assert (reply.status, reply.body) == (200, b'{"embedding":[]}')


def test_embed_option_types_are_checked_before_a_load() -> None:
    for request in (
        embed_request(options={"num_ctx": "big"}),
        embeddings_request(prompt="x", options={"num_ctx": "big"}),
    ):
        with pytest.raises(ClientError) as caught:
            embed.check(request, MINILM)
        assert (caught.value.status, caught.value.text) == (500, 'option "num_ctx" must be of type integer')
    assert embed.check(embed_request(input="x", options=NULLS), MINILM) is None


@pytest.mark.rule(102)
def test_embed_does_not_check_capabilities() -> None:
    chat = ModelInfo(name="chat", capabilities=("completion",))
    assert embed.check(embed_request(input="x"), chat) is None
    assert isinstance(prepared(embed_request(input="x"), chat), UpstreamRequest)


# --- requests to vLLM ---


def test_a_batch_is_sent_whole_and_in_order() -> None:
    texts = ["b", "", 'a "quoted"\n\u00e9 \U0001f999']
    assert upstream_body(prepared(embed_request(input=texts, dimensions=3, options=NULLS))) == {
        "model": "all-minilm",
        "input": texts,
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
    }


def test_embeddings_requests_are_neither_normalised_nor_truncated() -> None:
    assert upstream_body(prepared(embeddings_request(prompt="why"))) == {
        "model": "all-minilm",
        "input": ["why"],
        "encoding_format": "base64",
        "use_activation": False,
    }


@pytest.mark.rule(101)
def test_truncate_false_sends_no_truncation() -> None:
    for options in ({}, {"num_ctx": 256}, {"num_ctx": 100_000}):
        body = upstream_body(prepared(embed_request(input="x" * 1000, truncate=False, options=options)))
        assert "truncate_prompt_tokens" not in body


@pytest.mark.rule(102, 138)
@pytest.mark.parametrize(("num_ctx", "expected"), [(255, 255), (17, 17), (256, -1), (4096, -1), (1e30, -1), (None, -1)])
def test_num_ctx_limits_the_truncation(num_ctx: Any, expected: int) -> None:
    body = upstream_body(prepared(embed_request(input="x", options={"num_ctx": num_ctx})))
    assert body["truncate_prompt_tokens"] == expected


@pytest.mark.rule(138)
def test_the_requests_num_ctx_overrides_the_models() -> None:
    own = Defaults(options={"num_ctx": 32})
    assert upstream_body(prepared(embed_request(input="x"), defaults=own))["truncate_prompt_tokens"] == 32
    stronger = embed_request(input="x", options={"num_ctx": 64})
    assert upstream_body(prepared(stronger, defaults=own))["truncate_prompt_tokens"] == 64


def test_an_unknown_context_leaves_truncation_to_vllm() -> None:
    unknown = ModelInfo(name="all-minilm")
    assert (
        upstream_body(prepared(embed_request(input="x", options={"num_ctx": 2}), unknown))["truncate_prompt_tokens"]
        == -1
    )


@pytest.mark.rule(101)
@pytest.mark.parametrize("num_ctx", [2, 1, 0, -1])
def test_a_num_ctx_without_room_for_text_is_refused(num_ctx: int) -> None:
    step = prepared(embed_request(input="why is the sky blue?", options={"num_ctx": num_ctx}))
    with pytest.raises(Refused) as caught:
        counted(step, 2)
    assert caught.value.status == 400
    assert caught.value.text == "input after truncation exceeds maximum context length"


@pytest.mark.rule(102)
def test_a_num_ctx_with_room_for_one_token_truncates() -> None:
    step, texts = counted(prepared(embed_request(input="why is the sky blue?", options={"num_ctx": 3})), 2)
    assert texts == [""]
    assert upstream_body(step)["truncate_prompt_tokens"] == 3


@pytest.mark.rule(101)
@pytest.mark.parametrize(
    "make", [lambda **fields: embed_request(truncate=False, input=fields.pop("text"), **fields), None]
)
def test_without_truncation_num_ctx_refuses_longer_texts(make: Any) -> None:
    make = make or (lambda **fields: embeddings_request(prompt=fields.pop("text"), **fields))
    request = make(text="x" * 100, options={"num_ctx": 20})
    with pytest.raises(Refused) as caught:
        counted(prepared(request), 21)
    assert caught.value.text == CONTEXT_EXCEEDED
    step, _ = counted(prepared(request), 20)
    assert "truncate_prompt_tokens" not in upstream_body(step)


def test_only_the_longest_texts_of_a_batch_are_counted() -> None:
    options = {"num_ctx": 40}
    short = embed_request(input=["short", "x" * 24], truncate=False, options=options)
    assert isinstance(prepared(short), UpstreamRequest)
    long = [f"{index:02}" * 20 + "x" * index for index in range(50)]
    step, texts = counted(
        prepared(embed_request(input=long, truncate=False, options=options)), *[40] * embed.MAX_COUNTED
    )
    assert upstream_body(step)["input"] == long
    assert texts == long[: -embed.MAX_COUNTED - 1 : -1], "the longest"


def test_an_invalid_token_count_asks_another_worker() -> None:
    step = prepared(embed_request(input="x", options={"num_ctx": 2}))
    assert isinstance(step, PreflightRequest)
    with pytest.raises(Unable):
        step.then(b"{}")


# --- refusals ---

LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 256 tokens. However, your prompt contains at least '
    b"257 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
    b'prompt. (parameter=input_tokens, value=257)","type":"BadRequestError","param":"input_tokens","code":400}}'
)


@pytest.mark.rule(101, 159)
@pytest.mark.trap(15)
@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ((400, LONG), 400, "the input length exceeds the context length"),
        ((404, b'{"detail":"Not Found"}'), 501, "this model does not support embeddings"),
        ((400, b'{"error":{"message":"Nope.","type":"BadRequestError","code":400}}'), 400, "Nope."),
    ],
)
def test_embed_refusals_have_ollamas_texts(answer: tuple[int, bytes], status: int, text: str) -> None:
    for request, expected in (
        (embed_request(input="x", truncate=False), status),
        (embeddings_request(prompt="x"), 500),
    ):
        with pytest.raises(Refused) as caught:
            embed.adapt(request, MINILM, NO_DEFAULTS, classify(*answer))
        assert (caught.value.status, caught.value.text) == (expected, text)

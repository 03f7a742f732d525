from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from tests.support.protocol import (
    CLOCK,
    DONE,
    MODEL,
    STAMP,
    THINKER,
    TIMING,
    event,
    objects,
    outgoing,
    run,
    usage,
)
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import ClientError, Refused
from vllama_pool.router.protocol.ollama import generate
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_generate
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.registry.record import ModelInfo

EMBEDDER = ModelInfo(name="all-minilm", capabilities=("embedding",))
BASE = msgspec.structs.replace(MODEL, name="base", has_template=False, template="")
PNG = "iVBORw0KGgoAAAAN"


def check(info: ModelInfo = MODEL, **fields: Any) -> DirectResponse | None:
    return generate.check(decode_generate(json.dumps({"model": "MyModel"} | fields).encode()), info, CLOCK)


def refusal(info: ModelInfo = MODEL, **fields: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        check(info, **fields)
    return caught.value.status, caught.value.text


def upstream_body(info: ModelInfo = MODEL, **fields: Any) -> tuple[str, dict[str, Any]]:
    request = decode_generate(json.dumps({"model": "MyModel", "prompt": "hi"} | fields).encode())
    out = outgoing(generate.prepare(request, ModelPlan(info, NO_DEFAULTS), CLOCK))
    return out.path, json.loads(out.body)


@pytest.mark.rule(146)
@pytest.mark.trap(6)
@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"model":null}', b"null"])
def test_generate_without_a_model_is_a_404(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_generate(body)
    assert (caught.value.status, caught.value.text) == (404, "model '' not found")


@pytest.mark.rule(50, 88, 90)
@pytest.mark.parametrize(
    "fields", [{}, {"prompt": ""}, {"images": [PNG]}, {"raw": True}, {"stream": True, "keep_alive": "5m"}]
)
def test_generate_without_a_prompt_is_a_load(fields: dict[str, Any]) -> None:
    assert check(**fields) == DirectResponse(
        f'{{"model":"MyModel","created_at":"{STAMP}","response":"","done":true,"done_reason":"load"}}'.encode()
    )


@pytest.mark.rule(90)
def test_a_suffix_without_a_prompt_is_a_load() -> None:
    coder = msgspec.structs.replace(MODEL, capabilities=("completion", "insert"))
    loaded = check(coder, suffix="end")
    assert loaded is not None
    assert json.loads(loaded.body)["done_reason"] == "load"
    assert refusal(suffix="end")[1].endswith("does not support insert")


@pytest.mark.rule(112)
def test_image_generation_models_refuse_generate() -> None:
    painter = msgspec.structs.replace(MODEL, capabilities=("completion", "image"))
    assert refusal(painter, prompt="hi") == (400, "image generation models are not currently supported")
    assert upstream_body(width=512, height="512", steps=[]) == upstream_body()


@pytest.mark.rule(87)
def test_unload_is_answered_before_every_check() -> None:
    reply = check(EMBEDDER, keep_alive="0s", raw=True, system="x", think=True)
    assert reply is not None
    assert json.loads(reply.body)["done_reason"] == "unload"


@pytest.mark.rule(56)
@pytest.mark.parametrize("fields", [{"template": "x"}, {"system": "x"}, {"context": [1]}])
def test_raw_conflicts_with_template_system_and_context(fields: dict[str, Any]) -> None:
    text = "raw mode does not support template, system, or context"
    assert refusal(raw=True, prompt="hi", **fields) == (400, text)
    assert check(raw=True, prompt="hi", template="", system="", context=[]) is None


@pytest.mark.rule(156)
def test_an_embedding_model_cannot_generate() -> None:
    assert refusal(EMBEDDER, prompt="hi") == (400, '"MyModel" does not support generate')


@pytest.mark.rule(51)
def test_a_suffix_requires_the_insert_capability() -> None:
    text = "registry.ollama.ai/library/MyModel:latest does not support insert"
    assert refusal(prompt="hi", suffix="end") == (400, text)
    coder = msgspec.structs.replace(MODEL, capabilities=("completion", "insert"))
    assert check(coder, prompt="hi", suffix="end") is None
    path, body = upstream_body(coder, suffix="end")
    assert (path, body["prompt"], body["suffix"]) == ("/v1/completions", "hi", "end")


@pytest.mark.rule(53)
def test_a_template_is_refused_unless_empty() -> None:
    status, text = refusal(prompt="hi", template="{{ .Prompt }}")
    assert status == 400
    assert "template" in text
    assert check(prompt="hi", template="", suffix="", system="", options={}) is None


@pytest.mark.rule(59)
def test_images_require_vision_and_a_template() -> None:
    assert refusal(prompt="hi", images=[PNG])[1].endswith("does not support vision")
    seeing = msgspec.structs.replace(MODEL, capabilities=("completion", "vision"))
    assert check(seeing, prompt="hi", images=[PNG]) is None
    for fields in ({"raw": True}, {"context": [1]}):
        assert "images need a chat template" in refusal(seeing, prompt="hi", images=[PNG], **fields)[1]
    _, body = upstream_body(seeing, images=[PNG])
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]


@pytest.mark.trap(14)
def test_a_prompt_is_a_chat_of_one_message() -> None:
    path, body = upstream_body(system="be brief", options={"num_predict": -1})
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "smollm2:135m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "max_tokens": 2048,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
    }


@pytest.mark.rule(56)
def test_a_raw_prompt_is_a_completion_without_template() -> None:
    path, body = upstream_body(raw=True, logprobs=True, top_logprobs=3)
    assert path == "/v1/completions"
    assert body == {
        "model": "smollm2:135m",
        "prompt": "hi",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 2048,
        "logprobs": 3,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
    }


def test_without_a_template_a_prompt_is_a_completion() -> None:
    path, body = upstream_body(BASE, system="Be brief.")
    assert (path, body["prompt"]) == ("/v1/completions", "Be brief.\n\nhi")
    assert body["return_token_ids"] is True


@pytest.mark.rule(61)
def test_think_is_translated_or_refused() -> None:
    assert upstream_body(THINKER)[1]["chat_template_kwargs"]["enable_thinking"] is True
    assert upstream_body(THINKER, think=False)[1]["chat_template_kwargs"]["enable_thinking"] is False
    assert "chat_template_kwargs" not in upstream_body(THINKER, raw=True)[1]
    assert refusal(prompt="hi", think="low") == (400, '"MyModel" does not support thinking')


TAGGED = msgspec.structs.replace(THINKER, template=THINKER.template + "<think>")


def after_context(info: ModelInfo, answer: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], UpstreamRequest]:
    """Prepare a request with a context. Returns the preflight body and the request that follows."""
    body = {"model": "M", "prompt": "hi", "context": [1, 2], **fields}
    step = generate.prepare(decode_generate(json.dumps(body).encode()), ModelPlan(info, NO_DEFAULTS), CLOCK)
    assert isinstance(step, PreflightRequest)
    assert step.path == "/tokenize"
    out = step.then(json.dumps({"count": 2, "max_model_len": 1024, **answer}).encode())
    assert isinstance(out, UpstreamRequest)
    return json.loads(step.body), out


@pytest.mark.rule(54)
def test_a_context_precedes_the_rendered_prompts_tokens() -> None:
    preflight, out = after_context(MODEL, {"tokens": [7, 8]}, system="be brief")
    assert preflight["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert out.path == "/v1/completions"
    body = json.loads(out.body)
    assert (body["prompt"], body["return_token_ids"], body["max_tokens"]) == ([1, 2, 7, 8], True, 2048)
    assert out.translator is None
    preflight, out = after_context(BASE, {"tokens": [9]}, system="be brief")
    assert preflight["prompt"] == "be brief\n\nhi"
    assert json.loads(out.body)["prompt"] == [1, 2, 9]
    assert check(prompt="hi", context=[1, 2, 3]) is None
    assert upstream_body(context=[]) == upstream_body()
    assert refusal(prompt="hi", context=[1, -2])[1].startswith("-2 in context is not a token id")


@pytest.mark.rule(54)
@pytest.mark.parametrize(
    ("texts", "text", "thinking", "response"),
    [
        (["assistant", "Ċ"], "<think>\nhm\n</think>\n\nyes", "hm\n", "yes"),
        (["assistant", "Ċ", "<think>", "Ċ"], "hm</think>yes", "hm", "yes"),
        (["<think>", "ĊĊ", "</think>", "ĊĊ"], "yes", None, "yes"),
        (["assistant", None], "yes", None, "yes"),
    ],
)
def test_tagged_thinking_after_a_context_is_separated(
    texts: list[str], text: str, thinking: str | None, response: str
) -> None:
    preflight, out = after_context(TAGGED, {"tokens": [7, 8], "token_strs": texts})
    assert preflight["return_token_strs"] is True
    assert out.translator is not None
    request = decode_generate(b'{"model":"M","prompt":"hi","stream":false}')
    pieces = b"".join(event(choices=[{"text": letter}]) for letter in text)
    end = event(choices=[{"text": "", "finish_reason": "stop", "token_ids": []}]) + usage() + DONE
    [answer] = objects(run(cast(TextTranslator, out.translator(request, TIMING, CLOCK)), pieces + end))
    assert (answer.get("thinking"), answer["response"]) == (thinking, response)


@pytest.mark.rule(54)
def test_without_think_tags_the_answer_after_a_context_is_plain() -> None:
    preflight, out = after_context(THINKER, {"tokens": [7]})
    assert "return_token_strs" not in preflight
    assert preflight["chat_template_kwargs"]["enable_thinking"] is True
    assert out.translator is None


@pytest.mark.rule(62)
def test_a_prompt_that_is_too_long_is_truncated() -> None:
    too_long = Refused(CONTEXT_EXCEEDED, status=400)

    def adapted(info: ModelInfo = MODEL, **fields: Any) -> NextStep | None:
        request = decode_generate(json.dumps({"model": "M", "prompt": "hi"} | fields).encode())
        return generate.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, too_long)

    raw = adapted(raw=True)
    assert isinstance(raw, PreflightRequest)
    out = raw.then(b'{"count":5000,"max_model_len":2048}')
    assert isinstance(out, UpstreamRequest)
    assert json.loads(out.body)["truncate_prompt_tokens"] == 2048 - 512
    unknown = adapted(msgspec.structs.replace(MODEL, context_length=0), raw=True)
    assert isinstance(unknown, PreflightRequest)
    out = unknown.then(b'{"count":500,"max_model_len":400}')
    assert isinstance(out, UpstreamRequest)
    assert json.loads(out.body)["truncate_prompt_tokens"] == 300
    continued = adapted(context=[5] * 5000, options={"num_predict": 48})
    assert isinstance(continued, PreflightRequest)
    out = continued.then(b'{"tokens":[7],"max_model_len":2048}')
    assert isinstance(out, UpstreamRequest)
    assert json.loads(out.body)["truncate_prompt_tokens"] == 2000
    assert adapted(shift=False) is None


@pytest.mark.parametrize("shortens", [True, False])
def test_a_raw_prompt_that_fits_is_not_cut_for_the_tokens_that_may_follow(shortens: bool) -> None:
    """Older releases of vLLM count max_tokens against the context."""
    refused = Refused(CONTEXT_EXCEEDED, status=400)
    fields = {"model": "M", "prompt": "hi", "raw": True, "truncate": shortens, "options": {"num_predict": -1}}
    request = decode_generate(json.dumps(fields).encode())
    step = generate.adapt(request, ModelPlan(MODEL, NO_DEFAULTS), CLOCK, refused)
    assert isinstance(step, PreflightRequest)
    out = step.then(b'{"count":48,"max_model_len":2048}')
    assert isinstance(out, UpstreamRequest)
    body = json.loads(out.body)
    assert body["max_tokens"] == 2000
    assert "truncate_prompt_tokens" not in body
    if shortens:
        cut = step.then(b'{"count":5000,"max_model_len":2048}')
        assert isinstance(cut, UpstreamRequest)
        assert json.loads(cut.body)["truncate_prompt_tokens"] < 2048
    else:
        with pytest.raises(Refused):
            step.then(b'{"count":5000,"max_model_len":2048}')


@pytest.mark.rule(52, 85)
def test_a_models_system_text_and_messages_precede_the_prompt() -> None:
    default_messages = ({"role": "user", "content": "one"}, {"role": "assistant", "content": "two"})
    defaults = Defaults(system="You are a pirate.", messages=default_messages)

    def upstream_messages(info: ModelInfo = MODEL, **fields: Any) -> Any:
        request = decode_generate(json.dumps({"model": "M", "prompt": "hi"} | fields).encode())
        step = generate.prepare(request, ModelPlan(info, defaults), CLOCK)
        body = json.loads(step.body)  # type: ignore[union-attr]
        return [message["content"] for message in body["messages"]] if "messages" in body else body["prompt"]

    assert upstream_messages() == ["You are a pirate.", "one", "two", "hi"]
    assert upstream_messages(system="Be kind.") == ["Be kind.", "one", "two", "hi"]
    assert upstream_messages(system="") == upstream_messages()
    assert upstream_messages(context=[1]) == ["You are a pirate.", "hi"]
    assert upstream_messages(raw=True) == "hi"
    assert upstream_messages(BASE) == "You are a pirate.\n\nhi"


@pytest.mark.rule(66)
def test_debug_render_of_a_completion_is_its_text() -> None:
    def rendered(**fields: Any) -> NextStep:
        body = {"model": "M", "prompt": "hi", "_debug_render_only": True, **fields}
        return generate.prepare(decode_generate(json.dumps(body).encode()), ModelPlan(BASE, NO_DEFAULTS), CLOCK)

    assert rendered() == DirectResponse(
        f'{{"model":"M","created_at":"{STAMP}","response":"","done":false,'
        '"_debug_info":{"rendered_template":"hi"}}'.encode()
    )
    step = rendered(context=[1, 2])
    assert isinstance(step, PreflightRequest)
    assert json.loads(step.body)["tokens"] == [1, 2]
    reply = step.then(b'{"prompt":"before "}')
    assert isinstance(reply, DirectResponse)
    assert json.loads(reply.body)["_debug_info"]["rendered_template"] == "before hi"


@pytest.mark.rule(153)
def test_option_types_are_checked_before_a_load() -> None:
    assert refusal(options={"top_k": "x"}) == (500, 'option "top_k" must be of type integer')


UNDETECTED = msgspec.structs.replace(MODEL, undetected=("tools", "thinking", "vision"))
NO_SWITCH = Refused("chat_template is not supported for Mistral tokenizers.", status=400)
NO_EFFORT = Refused("reasoning_effort='high' is not supported for this model", status=400)


@pytest.mark.rule(158, 159)
def test_what_a_model_may_have_is_sent() -> None:
    fields: dict[str, Any] = {"prompt": "what?", "images": [PNG], "think": "low"}
    assert check(UNDETECTED, **fields) is None
    _, body = upstream_body(UNDETECTED, **fields)
    assert body["messages"][0]["content"][0]["type"] == "image_url"
    assert (body["chat_template_kwargs"]["thinking"], body["reasoning_effort"]) == (True, "low")


@pytest.mark.rule(158, 159)
@pytest.mark.parametrize(
    ("refusals", "fields", "text"),
    [
        (
            [Refused("m is not a multimodal model", status=400)],
            {"images": [PNG]},
            "registry.ollama.ai/library/MyModel:latest does not support vision",
        ),
        ([NO_SWITCH, NO_EFFORT], {"think": True}, '"MyModel" does not support thinking'),
    ],
)
def test_what_a_worker_cannot_do_is_refused_with_ollamas_text(
    refusals: list[Refused], fields: dict[str, Any], text: str
) -> None:
    request = decode_generate(json.dumps({"model": "MyModel", "prompt": "hi"} | fields).encode())
    with pytest.raises(Refused) as refused:
        generate.adapt(request, ModelPlan(UNDETECTED, NO_DEFAULTS), CLOCK, *refusals)
    assert (refused.value.status, refused.value.text) == (400, text)


def test_a_worker_that_refuses_the_switch_of_thinking_gets_an_effort() -> None:
    request = decode_generate(b'{"model": "m", "prompt": "hi", "think": false}')
    step = generate.adapt(request, ModelPlan(UNDETECTED, NO_DEFAULTS), CLOCK, NO_SWITCH)
    assert step is not None
    body = json.loads(outgoing(step).body)
    assert (body.get("chat_template_kwargs"), body["reasoning_effort"]) == (None, "none")

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import BadRequest, Refused, Unable
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.openai import tokenization
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.workers.registry.record import ModelInfo

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
EMBEDDER = ModelInfo(name="minilm", capabilities=("embedding",), has_template=False)


def sent(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    request = tokenization.decode_tokenize(json.dumps({"model": "x", **fields}).encode())
    tokenization.check_tokenize(request, info)
    step = tokenization.prepare_tokenize(request, ModelPlan(info, defaults, sampling, translated_defaults))
    assert (step.path, step.whole) == ("/tokenize", True)
    found: dict[str, Any] = json.loads(step.body)
    return found


def refused(info: ModelInfo = THINKER, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        sent(info, **fields)
    assert caught.value.status == 400
    return caught.value


def refused_tokens(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        tokenization.decode_detokenize(json.dumps({"model": "x", **fields}).encode())
    return caught.value


@pytest.mark.parametrize("info", [THINKER, EMBEDDER], ids=lambda info: info.name)
def test_a_text_is_forwarded_for_any_kind_of_model(info: ModelInfo) -> None:
    assert sent(info, prompt="") == {"model": info.name, "prompt": ""}
    fields = {"add_special_tokens": False, "return_token_strs": True}
    assert sent(info, prompt="hi", unknown=1, **fields) == {"model": info.name, "prompt": "hi", **fields}


def test_a_chat_is_forwarded_with_its_tools_and_settings() -> None:
    fields = {
        "messages": HELLO,
        "tools": [TOOL],
        "add_generation_prompt": False,
        "add_special_tokens": True,
        "return_token_strs": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert sent(**fields) == {"model": "qwen3-tiny", **fields}
    assert sent(messages=HELLO, tools=[]) == {"model": "qwen3-tiny", "messages": HELLO}


def test_a_continued_message_gets_no_generation_prompt() -> None:
    found = sent(messages=[*HELLO, {"role": "assistant", "content": "Sure"}], continue_final_message=True)
    assert (found["continue_final_message"], found["add_generation_prompt"]) == (True, False)


def test_a_virtual_models_system_text_is_counted() -> None:
    found = sent(defaults=Defaults(system="Be short."), messages=HELLO)
    assert found["messages"] == [{"role": "system", "content": "Be short."}, *HELLO]


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({}, "prompt", "Missing required parameter: 'prompt'."),
        ({"prompt": "a", "model": " "}, "model", "model is required"),
        ({"prompt": ["a"]}, "prompt", "Invalid type for 'prompt': expected a string, but got an array instead."),
        ({"prompt": "a", "messages": HELLO}, "prompt", "Send either 'prompt' or 'messages', not both."),
        ({"messages": []}, "messages", "[] is too short - 'messages'"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "Missing required parameter"),
        ({"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools[0].type", "Invalid value: 'web_search'."),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools[0].function", "Missing required parameter"),
        (
            {"messages": HELLO, "chat_template_kwargs": {"chat_template": "x"}},
            "chat_template_kwargs.chat_template",
            "'chat_template_kwargs.chat_template' is not accepted from clients",
        ),
        (
            {"messages": HELLO, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "Send either 'continue_final_message' or",
        ),
        ({"prompt": "a", "return_token_strs": "yes"}, "return_token_strs", "Invalid type for 'return_token_strs'"),
    ],
)
def test_invalid_requests_are_refused_by_field(fields: dict[str, Any], param: str, text: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert error.text.startswith(text)


@pytest.mark.parametrize("name", tokenization.REFUSED)
def test_fields_that_reach_into_the_server_are_refused(name: str) -> None:
    for what in ({"prompt": "a"}, {"messages": HELLO}):
        error = refused(**what, **{name: {"a": 1}})
        assert (error.param, error.code) == (name, "unsupported_parameter")


def test_images_by_url_are_refused() -> None:
    for url in ("http://10.0.0.1/x.png", "file:///etc/passwd"):
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        assert "base64 encoded data" in refused(messages=[{"role": "user", "content": parts}]).text


def test_images_for_a_text_model_are_refused() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert refused(messages=[{"role": "user", "content": parts}]).text.endswith("does not support vision")


def test_a_chat_for_a_model_without_template_is_refused() -> None:
    assert refused(EMBEDDER, messages=HELLO).text.startswith('chat needs a chat template and "x" has none: send the')


def test_tokens_are_forwarded_with_the_served_name() -> None:
    request = tokenization.decode_detokenize(b'{"model":"x","tokens":[0,5,4294967295],"more":1}')
    tokenization.check_detokenize(request, EMBEDDER)
    step = tokenization.prepare_detokenize(request, MODEL, NO_DEFAULTS)
    assert (step.path, step.whole) == ("/detokenize", True)
    assert json.loads(step.body) == {"model": "smollm2:135m", "tokens": [0, 5, 2**32 - 1]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "tokens"),
        ({"tokens": "5"}, "tokens"),
        ({"tokens": [-1]}, "tokens[0]"),
        ({"tokens": [2**32]}, "tokens[0]"),
        ({"tokens": [10**30]}, "tokens[0]"),
        ({"tokens": [1.5]}, "tokens[0]"),
        ({"tokens": [[1]]}, "tokens[0]"),
        ({"tokens": [1], "model": ""}, "model"),
    ],
)
def test_invalid_tokens_are_refused_by_field(fields: dict[str, Any], param: str) -> None:
    error = refused_tokens(**fields)
    assert (error.status, error.param) == (400, param)


def test_a_worker_without_the_route_is_explained() -> None:
    missing = Refused(WRONG_TASK, status=404)
    text = tokenization.decode_tokenize(b'{"model":"x","prompt":"a"}')
    tokens = tokenization.decode_detokenize(b'{"model":"x","tokens":[1]}')
    with pytest.raises(Unable, match="this needs vLLM's /tokenize, which the worker does not have") as caught:
        tokenization.adapt_tokenize(text, MODEL, NO_DEFAULTS, missing)
    assert caught.value.status == 501
    with pytest.raises(Unable, match="this needs vLLM's /detokenize"):
        tokenization.adapt_detokenize(tokens, MODEL, NO_DEFAULTS, missing)
    tokenization.adapt_tokenize(text, MODEL, NO_DEFAULTS, Refused("other", status=400))


def test_the_answer_passes_as_it_is() -> None:
    answer = b'{"count":2,"max_model_len":64,"tokens":[1,2],"token_strs":["\\"model\\":\\"smollm2:135m\\"",null]}'
    translator = tokenization.translator(tokenization.decode_tokenize(b'{"model":"x","prompt":"a"}'), TIMING, CLOCK)
    translator.feed(answer)
    assert translator.finish() == answer
    assert translator.done

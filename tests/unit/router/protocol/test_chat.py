from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from config.defaults import Defaults
from router.errors import ClientError
from router.protocol import chat
from router.protocol.operation import Reply
from router.protocol.requests import decode_chat
from tests.support.protocol import CLOCK, MODEL, STAMP, THINKER, outgoing
from workers.record import ModelInfo

HI = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
EMBEDDER = ModelInfo(name="all-minilm", capabilities=("embedding",))
PNG = "iVBORw0KGgoAAAAN"


def check(info: ModelInfo = MODEL, **fields: Any) -> Reply | None:
    return chat.check(decode_chat(json.dumps({"model": "MyModel"} | fields).encode()), info, CLOCK)


def refused(info: ModelInfo = MODEL, **fields: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        check(info, **fields)
    return caught.value.status, caught.value.text


def sent(info: ModelInfo = MODEL, route: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    request = decode_chat(json.dumps({"model": "MyModel", "messages": [HI]} | fields).encode())
    out = outgoing(chat.prepare(request, info, Defaults(route or {}), CLOCK))
    assert out.path == "/v1/chat/completions"
    result: dict[str, Any] = json.loads(out.body)
    return result


@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"model":"  "}', b'{"model":null}', b"null"])
def test_r146_a_missing_model_is_a_400(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_chat(body)
    assert (caught.value.status, caught.value.text) == (400, "model is required")


@pytest.mark.parametrize("top", [-1, 21])
def test_r155_top_logprobs_are_bounded_before_anything_else(top: int) -> None:
    with pytest.raises(ClientError) as caught:
        decode_chat(json.dumps({"top_logprobs": top}).encode())
    assert (caught.value.status, caught.value.text) == (400, "top_logprobs must be between 0 and 20")


@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"messages": None}, {"stream": True}, {"keep_alive": -1}])
def test_r087_r088_trap_5_no_messages_is_a_load(fields: dict[str, Any]) -> None:
    reply = check(**fields)
    assert reply == Reply(
        f'{{"model":"MyModel","created_at":"{STAMP}","message":{{"role":"assistant","content":""}},"done":true,'
        '"done_reason":"load"}'.encode()
    )
    assert reply.content_type == "application/json; charset=utf-8"


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m"])
def test_r087_keep_alive_zero_without_messages_is_an_unload_for_any_model(keep_alive: Any) -> None:
    reply = check(EMBEDDER, keep_alive=keep_alive, options={"temperature": "not looked at"}, think=True)
    assert reply is not None
    assert json.loads(reply.body)["done_reason"] == "unload"


def test_r089_keep_alive_zero_with_messages_is_answered() -> None:
    assert check(messages=[HI], keep_alive=0) is None


def test_r157_an_embedding_model_cannot_chat_nor_be_loaded_for_it() -> None:
    assert refused(EMBEDDER, messages=[HI]) == refused(EMBEDDER) == (400, '"MyModel" does not support chat')


def test_r112_image_models_are_refused() -> None:
    info = ModelInfo(name="flux", capabilities=("image",))
    assert refused(info, messages=[HI]) == (400, "image generation models are not currently supported")


def test_r159_tools_are_refused_with_the_full_name() -> None:
    text = "registry.ollama.ai/library/MyModel:latest does not support tools"
    assert refused(messages=[HI], tools=[TOOL]) == (400, text)
    assert check(messages=[HI], tools=[]) is None
    assert check(THINKER, messages=[HI], tools=[TOOL]) is None


def test_the_order_of_checks_is_ollamas() -> None:
    wrong: dict[str, Any] = {"think": True, "tools": [TOOL], "options": {"seed": "x"}, "format": "xml"}
    assert refused(**wrong, messages=[HI])[1] == '"MyModel" does not support thinking'
    del wrong["think"]
    assert "does not support tools" in refused(**wrong, messages=[HI])[1]
    del wrong["tools"]
    assert refused(**wrong)[0] == 500  # also before the load
    del wrong["options"]
    assert refused(**wrong, messages=[HI])[0] == 500
    assert check(**wrong) is not None  # a load runs nothing, so nobody looks at the format


def test_r057_format() -> None:
    schema = {"type": "object", "properties": {"z": {}, "a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}
    assert "response_format" not in sent()
    assert "response_format" not in sent(format="")
    assert "response_format" not in sent(format=None)
    assert sent(format="json")["response_format"] == {"type": "json_object"}
    given = sent(format=schema)["response_format"]
    assert given == {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}
    text = 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'
    assert refused(messages=[HI], format="xml") == (500, text)
    assert refused(messages=[HI], format=[1])[0] == 500


def test_images_are_refused_for_a_text_model() -> None:
    messages = [HI | {"images": [PNG]}]
    text = "registry.ollama.ai/library/MyModel:latest does not support vision"
    assert refused(messages=messages) == (400, text)
    seeing = msgspec.structs.replace(MODEL, capabilities=("completion", "vision"))
    assert check(seeing, messages=messages) is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_without_template_is_one_plain_400_that_names_the_cure(stream: bool) -> None:
    status, text = refused(ModelInfo(name="base", has_template=False), messages=[HI], stream=stream)
    assert status == 400
    assert "/api/generate" in text
    assert "--chat-template" in text


def test_the_whole_request_as_vllm_gets_it() -> None:
    assert sent(THINKER, {"top_k": 3}, stream=False, tools=[TOOL], logprobs=True, options={"seed": 1}) == {
        "model": "qwen3-tiny",
        "messages": [HI],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [TOOL | {"function": {"name": "f", "parameters": {"type": "object"}}}],
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
        "logprobs": True,
        "top_logprobs": 0,
        "temperature": 0.8,
        "top_k": 3,
        "top_p": 0.9,
        "seed": 1,
    }


def test_nothing_that_a_client_invents_reaches_the_worker() -> None:
    invented = {"temperature": 2, "max_output_tokens": 5, "tool_choice": "any", "n": 4, "chat_template": "{{ x }}"}
    assert sent(**invented, options={"url": "http://x", "num_ctx": 5, "priority": 1}) == sent()


def test_r080_there_is_no_tool_choice() -> None:
    assert "tool_choice" not in sent(THINKER, tools=[TOOL], tool_choice="required")

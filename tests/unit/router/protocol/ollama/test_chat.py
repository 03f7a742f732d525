from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, STAMP, THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import ClientError, Refused, Unable
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.operation import DirectResponse, PreflightRequest
from vllama_pool.workers.registry.record import ModelInfo

HI = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
EMBEDDER = ModelInfo(name="all-minilm", capabilities=("embedding",))
PNG = "iVBORw0KGgoAAAAN"


def check(info: ModelInfo = MODEL, **fields: Any) -> DirectResponse | None:
    return chat.check(decode_chat(json.dumps({"model": "MyModel"} | fields).encode()), info, CLOCK)


def refusal(info: ModelInfo = MODEL, **fields: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        check(info, **fields)
    return caught.value.status, caught.value.text


def upstream_body(info: ModelInfo = MODEL, route: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    request = decode_chat(json.dumps({"model": "MyModel", "messages": [HI]} | fields).encode())
    out = outgoing(chat.prepare(request, ModelPlan(info, Defaults(route or {})), CLOCK))
    assert out.path == "/v1/chat/completions"
    result: dict[str, Any] = json.loads(out.body)
    return result


@pytest.mark.rule(146)
@pytest.mark.trap(6)
@pytest.mark.parametrize("body", [b"{}", b'{"model":""}', b'{"model":"  "}', b'{"model":null}', b"null"])
def test_chat_without_a_model_is_a_400(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        decode_chat(body)
    assert (caught.value.status, caught.value.text) == (400, "model is required")


@pytest.mark.rule(155)
@pytest.mark.parametrize("top", [-1, 21])
def test_top_logprobs_are_checked_before_the_model(top: int) -> None:
    with pytest.raises(ClientError) as caught:
        decode_chat(json.dumps({"top_logprobs": top}).encode())
    assert (caught.value.status, caught.value.text) == (400, "top_logprobs must be between 0 and 20")


@pytest.mark.rule(71, 87, 88)
@pytest.mark.trap(5)
@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"messages": None}, {"stream": True}, {"keep_alive": -1}])
def test_chat_without_messages_is_a_load(fields: dict[str, Any]) -> None:
    reply = check(**fields)
    assert reply == DirectResponse(
        f'{{"model":"MyModel","created_at":"{STAMP}","message":{{"role":"assistant","content":""}},"done":true,'
        '"done_reason":"load"}'.encode()
    )
    assert reply.content_type == "application/json; charset=utf-8"


@pytest.mark.rule(87)
@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m"])
def test_keep_alive_zero_without_messages_unloads_any_model(keep_alive: Any) -> None:
    reply = check(EMBEDDER, keep_alive=keep_alive, options={"temperature": "not checked"}, think=True)
    assert reply is not None
    assert json.loads(reply.body)["done_reason"] == "unload"


@pytest.mark.rule(89)
def test_keep_alive_zero_with_messages_is_sent_to_the_worker() -> None:
    assert check(messages=[HI], keep_alive=0) is None


@pytest.mark.rule(157)
def test_an_embedding_model_refuses_chat_and_load() -> None:
    assert refusal(EMBEDDER, messages=[HI]) == refusal(EMBEDDER) == (400, '"MyModel" does not support chat')


@pytest.mark.rule(112)
def test_image_generation_models_refuse_chat() -> None:
    info = ModelInfo(name="flux", capabilities=("image",))
    assert refusal(info, messages=[HI]) == (400, "image generation models are not currently supported")


@pytest.mark.rule(159)
def test_tools_are_refused_with_the_models_full_name() -> None:
    text = "registry.ollama.ai/library/MyModel:latest does not support tools"
    assert refusal(messages=[HI], tools=[TOOL]) == (400, text)
    assert check(messages=[HI], tools=[]) is None
    assert check(THINKER, messages=[HI], tools=[TOOL]) is None


@pytest.mark.rule(166)
def test_chat_checks_are_in_ollamas_order() -> None:
    wrong: dict[str, Any] = {"think": True, "tools": [TOOL], "options": {"seed": "x"}, "format": "xml"}
    assert refusal(**wrong, messages=[HI])[1] == '"MyModel" does not support thinking'
    del wrong["think"]
    assert "does not support tools" in refusal(**wrong, messages=[HI])[1]
    del wrong["tools"]
    assert refusal(**wrong)[0] == 500  # also before a load
    del wrong["options"]
    assert refusal(**wrong, messages=[HI])[0] == 500
    assert check(**wrong) is not None  # a load does not check the format


@pytest.mark.rule(57)
def test_format_is_translated_or_refused() -> None:
    schema = {"type": "object", "properties": {"z": {}, "a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}
    closed = schema | {"additionalProperties": False, "x-guidance": {"whitespace_flexible": False}}
    assert "response_format" not in upstream_body()
    assert "response_format" not in upstream_body(format="")
    assert "response_format" not in upstream_body(format=None)
    assert upstream_body(format="json")["response_format"] == {"type": "json_object"}
    given = upstream_body(format=schema)["response_format"]
    assert given == {"type": "json_schema", "json_schema": {"name": "response", "schema": closed}}
    assert list(given["json_schema"]["schema"]["properties"]) == ["z", "a"]
    text = 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'
    assert refusal(messages=[HI], format="xml") == (500, text)
    assert refusal(messages=[HI], format=[1])[0] == 500


@pytest.mark.rule(75, 159)
def test_images_are_refused_for_a_model_without_vision() -> None:
    messages = [HI | {"images": [PNG]}]
    text = "registry.ollama.ai/library/MyModel:latest does not support vision"
    assert refusal(messages=messages) == (400, text)
    wave = base64.b64encode(b"RIFF\0\0\0\0WAVE" + bytes(20)).decode()
    both = f"{text}\n{text.replace('vision', 'audio')}"
    assert refusal(messages=[HI | {"images": [PNG, wave]}]) == (400, both)
    seeing = msgspec.structs.replace(MODEL, capabilities=("completion", "vision"))
    assert check(seeing, messages=messages) is None


@pytest.mark.parametrize("stream", [True, False])
def test_chat_without_a_template_is_a_400_that_says_what_to_do(stream: bool) -> None:
    status, text = refusal(ModelInfo(name="base", has_template=False), messages=[HI], stream=stream)
    assert status == 400
    assert "/api/generate" in text
    assert "--chat-template" in text


@pytest.mark.rule(97)
def test_every_field_of_a_chat_request_is_translated() -> None:
    assert upstream_body(THINKER, {"top_k": 3}, stream=False, tools=[TOOL], logprobs=True, options={"seed": 1}) == {
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


def test_unknown_fields_do_not_reach_the_worker() -> None:
    invented = {"temperature": 2, "max_output_tokens": 5, "tool_choice": "any", "n": 4, "chat_template": "{{ x }}"}
    assert upstream_body(**invented, options={"url": "http://x", "num_ctx": 5, "priority": 1}) == upstream_body()


@pytest.mark.rule(60)
def test_options_may_be_null_or_contain_nulls() -> None:
    assert (
        upstream_body(options=None)
        == upstream_body(options={})
        == upstream_body(options={"temperature": None, "stop": None, "num_ctx": None})
    )
    assert upstream_body(options={"temperature": 0})["temperature"] == 0.0


@pytest.mark.rule(65)
def test_top_logprobs_without_logprobs_is_ignored() -> None:
    assert upstream_body(top_logprobs=3) == upstream_body(logprobs=False, top_logprobs=3) == upstream_body()
    assert upstream_body(logprobs=True, top_logprobs=3)["top_logprobs"] == 3


@pytest.mark.rule(79)
def test_an_empty_tools_list_is_accepted_by_any_model() -> None:
    assert check(messages=[HI], tools=[]) is check(messages=[HI], tools=None) is None
    assert "tools" not in upstream_body(tools=[])


@pytest.mark.rule(98)
def test_format_does_not_turn_thinking_off() -> None:
    body = upstream_body(THINKER, format={"type": "boolean"})
    assert body["chat_template_kwargs"]["enable_thinking"] is True
    assert body["response_format"]["json_schema"]["schema"]["type"] == "boolean"


@pytest.mark.rule(62, 63)
def test_truncate_and_shift_are_not_sent_to_vllm() -> None:
    for value in (True, False, None):
        assert upstream_body(truncate=value, shift=value) == upstream_body()


BROUGHT = Defaults(
    {"temperature": 0.5},
    "You are a pirate.",
    ({"role": "user", "content": "one"}, {"role": "ASSISTANT", "content": "arr", "tool_calls": []}),
)


def upstream_messages(defaults: Defaults, *messages: dict[str, Any]) -> list[tuple[str, str]]:
    request = decode_chat(json.dumps({"model": "m", "messages": messages}).encode())
    body = json.loads(outgoing(chat.prepare(request, ModelPlan(MODEL, defaults), CLOCK)).body)
    return [(message["role"], message["content"]) for message in body["messages"]]


@pytest.mark.rule(85)
def test_a_models_system_text_and_messages_precede_the_requests() -> None:
    few = [("user", "one"), ("assistant", "arr")]
    assert upstream_messages(BROUGHT, HI) == [("system", "You are a pirate."), *few, ("user", "hi")]
    own = {"role": "System", "content": "Be kind."}
    assert upstream_messages(BROUGHT, own, HI) == [("system", "Be kind."), *few, ("user", "hi")]
    assert upstream_messages(Defaults(system="Be brief."), HI, own)[0] == ("system", "Be brief.")
    assert upstream_messages(Defaults(messages=BROUGHT.messages), HI) == [*few, ("user", "hi")]


@pytest.mark.rule(85)
def test_a_models_calls_and_the_requests_have_different_ids() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    defaults = Defaults(messages=({"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "r"}))
    request = decode_chat(
        json.dumps({"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}).encode()
    )
    body = json.loads(outgoing(chat.prepare(request, ModelPlan(MODEL, defaults), CLOCK)).body)
    first, result, second = body["messages"]
    assert first["tool_calls"][0]["id"] == result["tool_call_id"] != second["tool_calls"][0]["id"]


@pytest.mark.rule(66)
def test_debug_render_tokenizes_then_detokenizes() -> None:
    body = {"model": "M", "messages": [HI], "_debug_render_only": True}
    step = chat.prepare(decode_chat(json.dumps(body).encode()), ModelPlan(THINKER, NO_DEFAULTS), CLOCK)
    assert isinstance(step, PreflightRequest)
    assert json.loads(step.body) == {
        "model": "qwen3-tiny",
        "messages": [HI],
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
    }
    step = step.then(b'{"count":2,"max_model_len":1024,"tokens":[1,2],"token_strs":null}')
    assert isinstance(step, PreflightRequest)
    assert (step.path, json.loads(step.body)) == ("/detokenize", {"model": "qwen3-tiny", "tokens": [1, 2]})
    reply = step.then(b'{"prompt":"<s>hi"}')
    assert isinstance(reply, DirectResponse)
    assert reply.body.decode() == (
        f'{{"model":"M","created_at":"{STAMP}","message":{{"role":"","content":""}},"done":false,'
        '"_debug_info":{"rendered_template":"\\u003cs\\u003ehi"}}'
    )


@pytest.mark.rule(66)
def test_debug_render_counts_images() -> None:
    seeing = msgspec.structs.replace(MODEL, capabilities=("completion", "vision"))
    body = {"model": "M", "messages": [HI | {"images": [PNG, PNG]}], "_debug_render_only": True}
    step = chat.prepare(decode_chat(json.dumps(body).encode()), ModelPlan(seeing, NO_DEFAULTS), CLOCK)
    for answer in (b'{"max_model_len":1,"tokens":[1]}', b'{"prompt":"x"}'):
        assert isinstance(step, PreflightRequest)
        step = step.then(answer)
    assert isinstance(step, DirectResponse)
    assert json.loads(step.body)["_debug_info"] == {"rendered_template": "x", "image_count": 2}


@pytest.mark.parametrize("answer", [b"", b"{}", b"null", b'{"tokens":"x","max_model_len":1}', b"\xff"])
def test_an_invalid_tokenize_response_does_not_blame_the_worker(answer: bytes) -> None:
    body = {"model": "M", "messages": [HI], "_debug_render_only": True}
    step = chat.prepare(decode_chat(json.dumps(body).encode()), ModelPlan(THINKER, NO_DEFAULTS), CLOCK)
    assert isinstance(step, PreflightRequest)
    with pytest.raises(Unable, match="/tokenize") as caught:
        step.then(answer)
    assert caught.value.status == 501


@pytest.mark.rule(80)
def test_tool_choice_is_not_sent() -> None:
    assert "tool_choice" not in upstream_body(THINKER, tools=[TOOL], tool_choice="required")


NO_TOOLS = Refused('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', status=400)
NO_VISION = Refused("m is not a multimodal model", status=400)
NO_SWITCH = Refused("chat_template is not supported for Mistral tokenizers.", status=400)
NO_EFFORT = Refused("reasoning_effort='high' is not supported for this model", status=400)
UNDETECTED = msgspec.structs.replace(MODEL, undetected=("tools", "thinking", "vision"))
SEEN = {"role": "user", "content": "what?", "images": [PNG]}


def adapted(*refusals: Refused, info: ModelInfo = UNDETECTED, **fields: Any) -> Any:
    request = decode_chat(json.dumps({"model": "MyModel", "messages": [HI]} | fields).encode())
    step = chat.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, *refusals)
    return step and json.loads(outgoing(step).body)


@pytest.mark.rule(158, 159)
def test_what_a_model_may_have_is_sent() -> None:
    fields: dict[str, Any] = {"messages": [SEEN], "tools": [TOOL], "think": True}
    assert check(UNDETECTED, **fields) is None
    body = upstream_body(UNDETECTED, **fields)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"]
    assert body["messages"][0]["content"][0]["type"] == "image_url"
    assert body["chat_template_kwargs"]["enable_thinking"] is True
    assert "chat_template_kwargs" not in upstream_body(UNDETECTED)


@pytest.mark.rule(158, 159)
@pytest.mark.parametrize(
    ("refusals", "fields", "text"),
    [
        ([NO_TOOLS], {"tools": [TOOL]}, "registry.ollama.ai/library/MyModel:latest does not support tools"),
        ([NO_VISION], {"messages": [SEEN]}, "registry.ollama.ai/library/MyModel:latest does not support vision"),
        ([NO_SWITCH, NO_EFFORT], {"think": "low"}, '"MyModel" does not support thinking'),
    ],
)
@pytest.mark.parametrize("info", [UNDETECTED, THINKER], ids=["undetected", "known"])
def test_what_a_worker_cannot_do_is_refused_with_ollamas_text(
    refusals: list[Refused], fields: dict[str, Any], text: str, info: ModelInfo
) -> None:
    with pytest.raises(Refused) as refused:
        adapted(*refusals, info=info, **fields)
    assert (refused.value.status, refused.value.text) == (400, text)


def test_a_worker_that_refuses_the_switch_of_thinking_gets_an_effort_or_nothing() -> None:
    body = adapted(NO_SWITCH, think=False)
    assert (body.get("chat_template_kwargs"), body["reasoning_effort"]) == (None, "none")
    body = adapted(NO_SWITCH, NO_EFFORT, think=False)
    assert not {"chat_template_kwargs", "reasoning_effort"} & body.keys()


def test_an_answer_is_continued_by_a_worker_that_refuses_the_switch_of_thinking() -> None:
    messages = [HI, {"role": "assistant", "content": "Once upon"}]
    assert upstream_body(UNDETECTED, messages=messages)["chat_template_kwargs"]["enable_thinking"] is False
    body = adapted(NO_SWITCH, NO_EFFORT, messages=messages)
    assert body["continue_final_message"] is True
    assert not {"chat_template_kwargs", "reasoning_effort"} & body.keys()


def test_a_second_form_for_a_strict_template_keeps_the_effort() -> None:
    messages = [HI, HI]
    body = adapted(NO_SWITCH, Refused("roles must alternate", status=400), messages=messages, think=True)
    assert (len(body["messages"]), body["reasoning_effort"]) == (1, "high")
    with pytest.raises(Refused, match="roles must alternate"):
        adapted(NO_SWITCH, Refused("roles must alternate", status=400), think=True)

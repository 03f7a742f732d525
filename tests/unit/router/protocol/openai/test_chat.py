from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, TIMING
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.openai import chat
from vllama_pool.router.protocol.openai.requests import REFUSED, ChatCompletionRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.workers.registry.record import ModelInfo

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
PNG = "data:image/png;base64,iVBORw0KGgoAAAAN"
SEER = ModelInfo(name="seer", template="{{ messages }}", capabilities=("completion", "vision", "audio"))


def decoded(max_choices: int = 16, **fields: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": HELLO, **fields}
    return chat.decode(json.dumps(body).encode(), max_choices)


def sent(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    request = decoded(**fields)
    chat.check(request, info)
    step = chat.prepare(request, plan(info, defaults))
    assert step.path == "/v1/chat/completions"
    assert step.whole == (not request.stream)
    body: dict[str, Any] = json.loads(step.body)
    return body


def plan(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS) -> ModelPlan:
    return ModelPlan(info, defaults, sampling, translated_defaults)


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        chat.check(decoded(**fields), THINKER)
    return refused.value


FORWARDED: dict[str, Any] = {
    "max_tokens": 5,
    "max_completion_tokens": 6,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "seed": 7,
    "stop": ["a", "b"],
    "n": 2,
    "logit_bias": {"5": -100.0},
    "logprobs": True,
    "top_logprobs": 3,
    "user": "u",
    "service_tier": "auto",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "include_reasoning": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}},
    "structured_outputs": {"choice": ["a", "b"]},
    "stop_token_ids": [1],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "min_tokens": 2,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 10,
    "truncation_side": "left",
    "prompt_logprobs": 1,
    "allowed_token_ids": [1, 2],
    "bad_words": ["x"],
    "echo": True,
    "add_generation_prompt": False,
    "add_special_tokens": True,
    "continue_final_message": True,
    "documents": [{"title": "t", "text": "x"}],
    "chat_template_kwargs": {"enable_thinking": False},
    "thinking_token_budget": 9,
    "use_beam_search": True,
    "length_penalty": 0.8,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "repetition_detection": {"max_pattern_size": 3},
    "stream_interval": 2,
}


@pytest.mark.parametrize("name", FORWARDED)
def test_a_field_that_vllm_knows_is_forwarded(name: str) -> None:
    fields = {name: FORWARDED[name], **({"tools": [TOOL]} if name in ("tool_choice", "parallel_tool_calls") else {})}
    assert sent(**fields)[name] == FORWARDED[name]


def test_the_lists_of_fields_are_complete() -> None:
    known = {field.encode_name for field in msgspec.structs.fields(ChatCompletionRequest)}
    assert known == {*FORWARDED, "model", "messages", "stream", "stream_options", "reasoning"}
    assert not known & REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_reaches_into_the_server_is_refused_and_null_is_not(name: str) -> None:
    error = refusal(**{name: {"any": ["value"]}})
    assert error.text == f"'{name}' is not accepted from clients: {REFUSED[name]}"
    assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")
    assert name not in sent(**{name: None})


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"a": "b"}, "store": True, "prediction": {}, "verbosity": "low", "modalities": ["text"]},
        {"keep_alive": 5, "options": {"num_ctx": 5}, "format": "json", "request_id": "x", "session_id": "y"},
        {"prompt_cache_key": "x", "safety_identifier": "y", "web_search_options": {}, "unheard_of": [{}]},
    ],
)
def test_other_fields_are_dropped(fields: dict[str, Any]) -> None:
    assert sent(**fields) == {"model": "qwen3-tiny", "messages": HELLO}


def test_a_streamed_request_asks_for_the_usage() -> None:
    usage = {"include_usage": True}
    assert sent(stream=True)["stream_options"] == usage
    assert sent(stream=True, stream_options={"include_usage": False})["stream_options"] == usage
    continuous = {"include_usage": True, "continuous_usage_stats": True}
    assert sent(stream=True, stream_options=continuous)["stream_options"] == continuous


@pytest.mark.rule(43)
def test_an_answer_is_whole_by_default() -> None:
    for fields in ({}, {"stream": None}, {"stream": False}):
        assert "stream_options" not in sent(stream_options={"include_usage": True}, **fields)


def test_limits_above_the_context_are_lowered_to_it() -> None:
    assert sent(max_tokens=32_000)["max_tokens"] == 1024
    assert sent(max_completion_tokens=2**40)["max_completion_tokens"] == 1024
    assert sent(ModelInfo(name="x"), max_tokens=32_000)["max_tokens"] == 32_000


def test_a_model_has_the_defaults_that_the_request_leaves_open() -> None:
    defaults = Defaults({"temperature": 0.1, "num_predict": 7, "stop": ["x"]}, stream_interval=4)
    body = sent(defaults=defaults, temperature=0.0, stream=True)
    assert (body["temperature"], body["max_tokens"], body["stop"], body["stream_interval"]) == (0.0, 7, ["x"], 4)
    body = sent(defaults=defaults, max_completion_tokens=9, tools=[TOOL], stream=True)
    assert (body["max_completion_tokens"], "max_tokens" in body, "stream_interval" in body) == (9, False, False)


def test_a_virtual_models_texts_come_first_and_a_system_message_replaces_its_own() -> None:
    defaults = Defaults(system="be brief", messages=({"role": "user", "content": "a"},))
    system, example = {"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}
    assert sent(defaults=defaults)["messages"] == [system, example, *HELLO]
    mine = {"role": "developer", "content": "mine"}
    assert sent(defaults=defaults, messages=[mine, *HELLO])["messages"] == [
        {"role": "system", "content": "mine"},
        example,
        *HELLO,
    ]


def test_a_developer_message_stays_where_the_template_knows_the_role() -> None:
    messages = [{"role": "developer", "content": "x"}, *HELLO]
    for info in (ModelInfo(name="x", template="developer"), ModelInfo(name="x", architecture="gpt_oss")):
        assert sent(info, messages=messages)["messages"] == messages


def test_reasoning_of_earlier_turns_has_vllms_spelling() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "hi", "reasoning_content": "so"}, *HELLO]
    expected = {"role": "assistant", "content": "hi", "reasoning": "so"}
    assert sent(messages=messages)["messages"][1] == expected


def test_tool_calls_and_results_pass_as_they_are() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
    ]
    body = sent(messages=messages, tools=[TOOL])
    del messages[1]["content"]
    assert body["messages"] == messages
    assert body["tools"] == [TOOL]


def test_no_tools_at_all_are_left_out() -> None:
    for choice in (None, "auto", "none"):
        assert sent(tools=[], tool_choice=choice, parallel_tool_calls=True) == {
            "model": "qwen3-tiny",
            "messages": HELLO,
        }


def test_images_and_audio_pass_as_data() -> None:
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": PNG},
        {"type": "input_audio", "input_audio": {"data": "SUQzBAAA", "format": "mp3"}},
    ]
    message = sent(SEER, messages=[{"role": "user", "content": parts}])["messages"][0]
    assert message["content"] == [*parts[:2], {"type": "image_url", "image_url": {"url": PNG}}, parts[3]]


def test_a_refusal_of_an_earlier_turn_is_text() -> None:
    message = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert sent(messages=[*HELLO, message])["messages"][1]["content"] == [{"type": "text", "text": "no"}]


@pytest.mark.parametrize(("effort", "sends"), [("low", "low"), ("none", "none"), ("ultra", "max"), ("xhigh", "xhigh")])
def test_reasoning_effort_has_two_spellings(effort: str, sends: str) -> None:
    assert sent(reasoning_effort=effort)["reasoning_effort"] == sends
    assert sent(reasoning={"effort": effort})["reasoning_effort"] == sends


def test_a_model_that_cannot_think_gets_no_effort() -> None:
    assert "reasoning_effort" not in sent(MODEL, reasoning_effort="high")
    assert sent(ModelInfo(name="x", undetected=("thinking",)), reasoning_effort="high")["reasoning_effort"] == "high"


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


ILLEGAL = "illegal base64 data at input byte 0"
CALLED = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"model": " "}, "model", "model is required"),
        ({"messages": None}, "messages", "Missing required parameter: 'messages'."),
        ({"messages": []}, "messages", "[] is too short - 'messages'"),
        ({"messages": "hi"}, "messages", "Invalid type for 'messages': expected an array, but got a string instead."),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "Missing required parameter: 'messages[0].role'."),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid message content type: <nil>"),
        ({"n": 0}, "n", "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead."),
        ({"n": 17}, "n", "Invalid 'n': integer above maximum value. Expected a value <= 16, but got 17 instead."),
        (
            {"max_tokens": 0},
            "max_tokens",
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"max_completion_tokens": -1},
            "max_completion_tokens",
            "Invalid 'max_completion_tokens': integer below minimum value. Expected a value >= 1, but got -1 instead.",
        ),
        (
            {"temperature": "hot"},
            "temperature",
            "Invalid type for 'temperature': expected a number, but got a string instead.",
        ),
        ({"stream": "yes"}, "stream", "Invalid type for 'stream': expected a boolean, but got a string instead."),
        ({"tool_choice": "required"}, "tool_choice", "'tool_choice' is only allowed when 'tools' are specified."),
        (
            {"tools": [TOOL], "tool_choice": "any"},
            "tool_choice",
            "Invalid value: 'any'. Supported values are: 'none', 'auto', 'required'.",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "Tool choice 'g' not found in 'tools' parameter.",
        ),
        (
            {"tools": [{"type": "custom"}]},
            "tools[0].type",
            "Invalid value: 'custom'. Supported values are: 'function'.",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.type",
            "Invalid value: 'allowed_tools'. Supported values are: 'function'.",
        ),
        ({"tools": [{}]}, "tools[0].function", "Missing required parameter: 'tools[0].function'."),
        (
            {"reasoning_effort": "huge"},
            "reasoning_effort",
            "Invalid value: 'huge'. Supported values are: 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max', "
            "'ultra'.",
        ),
        (
            {"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "messages[1].tool_call_id",
            "Invalid parameter: the 'tool' message answers the call 'c', which no preceding message has in its "
            "'tool_calls'.",
        ),
        (
            {"messages": [CALLED, {"role": "tool", "content": "x"}]},
            "messages[1].tool_call_id",
            "Missing required parameter: 'messages[1].tool_call_id'.",
        ),
        (
            part(type="video"),
            "messages[0].content[0].type",
            "Invalid value: 'video'. Supported values are: 'text', 'refusal', 'input_audio', 'image_url', 'audio_url', "
            "'video_url'.",
        ),
        (
            part(type="text"),
            "messages[0].content[0].text",
            "Missing required parameter: 'messages[0].content[0].text'.",
        ),
        (part(type="file", file={}), "messages[0].content[0]", "file inputs are not currently supported"),
        (
            part(type="input_audio", input_audio={"data": "%%%%", "format": "wav"}),
            None,
            "illegal base64 data at input byte 0",
        ),
        (part(type="image_url", image_url="data:image/png;base64,%%%%"), None, ILLEGAL),
        (
            {"chat_template_kwargs": {"tokenize": True}},
            "chat_template_kwargs.tokenize",
            "'chat_template_kwargs.tokenize' is not accepted from clients: the router sets it",
        ),
    ],
)
def test_a_bad_request_is_refused_with_its_field(fields: dict[str, Any], param: str | None, text: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.text) == (400, param, text)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/x.png", "https://x/y.png", "file:///etc/passwd", "HTTP://x", "data:image/png,plain", ""]
)
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_media_that_a_worker_would_have_to_fetch_are_refused(kind: str, url: str) -> None:
    for link in (url, {"url": url}):
        error = refusal(**part(type=f"{kind}_url", **{f"{kind}_url": link}))
        assert error.text == f"{kind} URLs are not currently supported, please use base64 encoded data instead"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b" \n", "EOF"),
        (b"{", "the request body is not valid JSON: Input data was truncated"),
        (b"[]", "the request body must be a JSON object"),
        (b'{"model": }', "the request body is not valid JSON: JSON is malformed: invalid character (byte 10)"),
        (b'{"messages":[[]]}', "Invalid type for 'messages[0]': expected an object, but got an array instead."),
        (b'{"x":' + b"[" * 100_000, "the request body is not valid JSON: maximum recursion depth exceeded"),
    ],
    ids=range(7),
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat.decode(body, 16)
    assert refused.value.text.startswith(text)


@pytest.mark.parametrize("name", ["priority", "temperature", "seed"])
def test_a_number_that_is_out_of_range_is_refused(name: str) -> None:
    number = b"1" + b"0" * 5000 if name == "seed" else b"1e999"
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"%b":%b}' % (name.encode(), number)
    with pytest.raises(BadRequest, match=f"Invalid value for '{name}': .*out of range"):
        chat.decode(body, 16)


@pytest.mark.rule(157, 159)
@pytest.mark.parametrize(
    ("info", "fields", "text"),
    [
        (ModelInfo(name="m", capabilities=("embedding",)), {}, '"m" does not support chat'),
        (MODEL, {"tools": [TOOL]}, "registry.ollama.ai/library/m:latest does not support tools"),
        (
            MODEL,
            part(type="image_url", image_url=PNG),
            "registry.ollama.ai/library/m:latest does not support vision",
        ),
        (
            ModelInfo(name="m", has_template=False),
            {},
            'chat needs a chat template and "m" has none: use /v1/completions, or start vLLM with --chat-template',
        ),
    ],
)
def test_a_model_that_lacks_the_capability_is_refused(info: ModelInfo, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat.check(decoded(**fields), info)
    assert (refused.value.status, refused.value.text) == (400, text)


def test_a_model_without_tools_may_be_told_to_call_none() -> None:
    chat.check(decoded(tools=[TOOL], tool_choice="none"), MODEL)


# after refusals


def adapted(*refusals: AttemptFailed, info: ModelInfo = THINKER, **fields: Any) -> dict[str, Any] | None:
    step = chat.adapt(decoded(**fields), plan(info), *refusals)
    return None if step is None else json.loads(step.body)


def test_messages_that_a_template_refuses_are_joined() -> None:
    messages = [{"role": "system", "content": "a"}, *HELLO, {"role": "system", "content": "b"}]
    strict = ModelInfo(name="x", template="system user")
    body = adapted(
        Refused("Conversation roles must alternate", status=400), info=strict, messages=messages, temperature=0
    )
    assert body == {"model": "x", "temperature": 0.0, "messages": [{"role": "system", "content": "a\n\nb"}, *HELLO]}


def test_a_limit_that_is_known_after_a_refusal_is_applied() -> None:
    refused = Refused("max_tokens=9000 cannot be greater than max_model_len=512", status=400)
    body = adapted(refused, info=ModelInfo(name="x", template="t"), max_tokens=9000)
    assert body is not None
    assert body["max_tokens"] == 512


def test_too_many_stop_strings_are_not_cut_off() -> None:
    refused = Refused("stop: List should have at most 4 items after validation", status=400)
    assert adapted(refused, stop=["a"] * 5) is None


def test_a_prompt_that_is_too_long_is_refused_in_vllms_words_and_with_openais_code() -> None:
    failure = Refused(CONTEXT_EXCEEDED, status=400)
    failure.original = "This model's maximum context length is 1024 tokens."
    with pytest.raises(Refused) as refused:
        adapted(failure)
    assert (refused.value.text, refused.value.status, refused.value.param, refused.value.code) == (
        failure.original,
        400,
        "messages",
        "context_length_exceeded",
    )


def test_an_effort_that_the_model_does_not_take_is_left_out() -> None:
    refused = Refused("reasoning_effort='medium' is not supported for this model", status=400)
    body = adapted(refused, reasoning_effort="medium", temperature=0)
    assert body == {"model": "qwen3-tiny", "temperature": 0.0, "messages": HELLO}
    assert adapted(refused) is None


def test_an_unexplained_refusal_stays() -> None:
    assert adapted(Refused("top_k must be -1", status=422)) is None


def test_the_answer_is_relayed_as_requested() -> None:
    streamed = chat.translator(decoded(stream=True, n=2), TIMING, CLOCK)
    whole = chat.translator(decoded(), TIMING, CLOCK)
    assert (type(streamed).__name__, type(whole).__name__) == ("ChunkStream", "WholeAnswer")

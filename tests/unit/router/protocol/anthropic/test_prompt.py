from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, TIMING, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol.anthropic import prompt
from vllama_pool.router.protocol.anthropic.events import FAILED, MessageStream
from vllama_pool.router.protocol.anthropic.requests import REFUSED, CountTokensRequest, MessagesRequest
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.operation import PreflightRequest
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer
from vllama_pool.workers.registry.record import ModelInfo

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}
PNG = "iVBORw0KGgoAAAAN"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "Paris", "n": [1, 2.5, None]}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
SEER = ModelInfo(name="seer", template="{{ messages }}", capabilities=("completion", "vision"))
GENERAL = {"max_tokens": 100, "stream": True, "stop_sequences": ["x"], "temperature": 0.5, "top_k": 4, "top_p": 0.9}
COMMON = {
    "model": "m",
    "messages": HELLO,
    "system": "be nice",
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
}


def plan(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS) -> ModelPlan:
    return ModelPlan(info, defaults, sampling, translated_defaults)


def decoded(**fields: Any) -> MessagesRequest:
    return prompt.decode_message(json.dumps({"model": "m", "max_tokens": 100, "messages": HELLO, **fields}).encode())


def sent(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    request = decoded(**fields)
    prompt.check(request, info)
    step = prompt.prepare(request, plan(info, defaults))
    assert (step.path, step.whole) == ("/v1/messages", not request.stream)
    body: dict[str, Any] = json.loads(step.body)
    return body


def refusal(info: ModelInfo = THINKER, **fields: Any) -> str:
    with pytest.raises(BadRequest) as refused:
        prompt.check(decoded(**fields), info)
    assert refused.value.status == 400
    return refused.value.text


def adapted(*texts: str, info: ModelInfo = THINKER, **fields: Any) -> dict[str, Any] | None:
    """Return the body after refusals, latest last."""
    step = prompt.adapt(decoded(**fields), plan(info), *(AttemptFailed(text, status=400) for text in texts))
    return None if step is None else json.loads(outgoing(step).body)


def test_all_fields_of_the_struct_are_forwarded() -> None:
    fields = {**COMMON, **GENERAL, "max_tokens": 1024, "thinking": {"type": "disabled"}}
    switches = {"enable_thinking": False, "thinking": False}
    assert fields.keys() == {each.encode_name for each in msgspec.structs.fields(MessagesRequest)} - {"metadata"}
    assert sent(**fields) == {**fields, "model": "qwen3-tiny", "chat_template_kwargs": switches}


def test_all_fields_of_a_count_are_forwarded() -> None:
    assert COMMON.keys() == {each.encode_name for each in msgspec.structs.fields(CountTokensRequest)} - {"metadata"}
    request = prompt.decode_count(json.dumps({**COMMON, **GENERAL}).encode())
    prompt.check(request, THINKER)
    step = prompt.prepare(request, plan())
    assert (step.path, step.whole) == ("/v1/messages/count_tokens", True)
    switches = {"enable_thinking": True, "thinking": True}
    assert json.loads(step.body) == {**COMMON, "model": "qwen3-tiny", "chat_template_kwargs": switches}


@pytest.mark.rule(120, 122)
def test_other_fields_are_dropped_at_every_level() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    body = sent(
        metadata={"user_id": "u"},
        context_management={"edits": []},
        container="c",
        mcp_servers=[],
        service_tier="auto",
        betas=["b"],
        thinking={"type": "adaptive", "display": "omitted"},
        system=[{"type": "text", "text": "s", **cached}],
        tools=[{**TOOL, **cached, "type": "custom", "defer_loading": True, "eager_input_streaming": True}],
        output_config={"task_budget": {"type": "tokens", "total": 5}},
        messages=[{"role": "user", "content": [{"type": "text", "text": "a", "citations": [], **cached}], "id": 5}],
    )
    assert body == {
        "model": "qwen3-tiny",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "s"}],
        "tools": [TOOL],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    }


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_reach_into_the_server_are_refused(name: str) -> None:
    assert refusal(**{name: {"a": 1}}) == f"'{name}' is not accepted from clients: {REFUSED[name]}"
    assert sent(**{name: None})["model"] == "qwen3-tiny"


@pytest.mark.rule(120)
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"model": " "}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": None}, "messages is required"),
        ({"messages": []}, "messages is required"),
        ({"max_tokens": "5"}, "Invalid type for 'max_tokens': expected an integer, but got a string instead."),
        ({"messages": "hi"}, "Invalid type for 'messages': expected an array, but got a string instead."),
        ({"messages": [{"content": "x"}]}, "Missing required parameter: 'messages[0].role'."),
        ({"messages": [{"role": "user"}]}, "Missing required parameter: 'messages[0].content'."),
        ({"system": 5}, "Invalid type for 'system': expected a string or an array, but got an integer instead."),
        ({"stop_sequences": "x"}, "Invalid type for 'stop_sequences': expected an array, but got a string instead."),
        ({"stream": "yes"}, "Invalid type for 'stream': expected a boolean, but got a string instead."),
        ({"temperature": "hot"}, "Invalid type for 'temperature': expected a number, but got a string instead."),
        (
            {"tools": [{**TOOL, "input_schema": 5}]},
            "Invalid type for 'tools[0].input_schema': expected an object, but got an integer instead.",
        ),
    ],
)
def test_bad_fields_are_refused_by_name(fields: dict[str, Any], text: str) -> None:
    assert refusal(**fields) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "EOF"),
        (b"[]", "the request body must be a JSON object"),
        (b"{", "the request body is not valid JSON: Input data was truncated"),
        (b'{"system":[' + b'{"a":' * 100_000, "the request body is not valid JSON: maximum recursion depth exceeded"),
    ],
)
def test_bodies_that_are_no_object_are_refused(body: bytes, text: str) -> None:
    for decode in (prompt.decode_message, prompt.decode_count):
        with pytest.raises(BadRequest) as refused:
            decode(body)
        assert refused.value.text.startswith(text)


def test_a_count_needs_a_model_and_messages() -> None:
    for body, text in ((b'{"messages":[]}', "model is required"), (b'{"model":"m"}', "messages is required")):
        with pytest.raises(BadRequest) as refused:
            prompt.decode_count(body)
        assert refused.value.text == text


def test_models_that_lack_what_a_request_needs_refuse_it() -> None:
    tools = {"tools": [TOOL]}
    assert refusal(MODEL, **tools) == "registry.ollama.ai/library/m:latest does not support tools"
    assert sent(MODEL, **tools, tool_choice={"type": "none"})["tools"] == [TOOL]
    images = {"messages": [{"role": "user", "content": [IMAGE]}]}
    assert refusal(THINKER, **images) == "registry.ollama.ai/library/m:latest does not support vision"
    assert sent(SEER, **images)["messages"] == images["messages"]
    assert refusal(ModelInfo(name="e", capabilities=("embedding",))) == '"m" does not support chat'
    text = 'messages need a chat template and "m" has none: start vLLM with --chat-template'
    assert refusal(ModelInfo(name="plain", has_template=False)) == text


def test_images_within_tool_results_need_vision() -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{**RESULT, "content": [IMAGE]}]},
    ]
    assert refusal(THINKER, messages=messages) == "registry.ollama.ai/library/m:latest does not support vision"
    assert sent(SEER, messages=messages)["messages"] == messages


def test_a_limit_above_the_context_is_lowered_to_it() -> None:
    assert sent(max_tokens=32000)["max_tokens"] == THINKER.context_length
    assert sent(ModelInfo(name="x", template="t"), max_tokens=32000)["max_tokens"] == 32000


def test_a_limit_that_the_worker_names_is_applied() -> None:
    refused = "max_completion_tokens=32000 cannot be greater than max_model_len=2048. Please request fewer."
    body = adapted(refused, info=ModelInfo(name="x", template="t"), max_tokens=32000)
    assert body is not None
    assert body["max_tokens"] == 2048
    assert adapted("something else") is None


def test_the_models_options_fill_in_what_a_request_leaves_open() -> None:
    options = {"temperature": 0.1, "top_k": 7, "top_p": 0.2, "stop": ["s"], "num_predict": 5, "seed": 1}
    open_ = sent(defaults=Defaults(options=options))
    assert open_ == {
        "model": "qwen3-tiny",
        "messages": HELLO,
        "max_tokens": 100,
        "temperature": 0.1,
        "top_k": 7,
        "top_p": 0.2,
        "stop_sequences": ["s"],
    }
    given = {"temperature": 0.5, "top_k": 4, "top_p": 0.9, "stop_sequences": ["x"]}
    assert sent(defaults=Defaults(options=options), **given).items() >= given.items()


@pytest.mark.rule(85)
def test_the_models_system_text_and_messages_come_first() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
    example = (
        {"role": "user", "content": "q", "images": [PNG]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    )
    defaults = Defaults(system="model's", messages=example)
    result = [{"type": "text", "text": "r"}]
    shown = [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": result}]},
    ]
    body = sent(SEER, defaults)
    assert body["system"] == [{"type": "text", "text": "model's"}]
    assert body["messages"] == [*shown, *HELLO]
    assert sent(SEER, defaults, system="own")["system"] == "own"
    leading = {"role": "system", "content": "own"}
    body = sent(SEER, defaults, messages=[leading, *HELLO])
    assert "system" not in body
    assert body["messages"] == [leading, *shown, *HELLO]


CONTEXT = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=2049)"
)


@pytest.mark.parametrize(
    ("original", "text"),
    [
        (CONTEXT, "prompt is too long: 2049 tokens > 2048 maximum"),
        (
            "Input length (2049) exceeds model's maximum context length (2048).",
            "prompt is too long: 2049 tokens > 2048 maximum",
        ),
        (
            "This model's maximum context length is only odd.",
            "prompt is too long: This model's maximum context length is only odd.",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_in_anthropics_words(original: str, text: str) -> None:
    failure = classify(
        400, json.dumps({"type": "error", "error": {"type": "BadRequestError", "message": original}}).encode()
    )
    with pytest.raises(Refused) as refused:
        prompt.adapt(decoded(), plan(), failure)
    assert (refused.value.status, refused.value.text) == (400, text)


@pytest.mark.parametrize(
    "text",
    [
        "Unterminated string starting at: line 1 column 10 (char 9)",
        "Expecting value: line 1 column 1 (char 0)",
        "1 validation error for AnthropicContentBlock\ninput\n  Input should be a valid dictionary [type=dict_type]",
    ],
)
def test_a_tool_call_that_vllm_cannot_read_is_explained(text: str) -> None:
    with pytest.raises(Refused) as refused:
        prompt.adapt(decoded(messages=[*HELLO, *HELLO]), plan(), AttemptFailed(text, status=400))
    assert refused.value.text == prompt.BROKEN_CALL


NO_BUDGET = "thinking_token_budget is set but reasoning_config is not configured."
UNDETECTED = ModelInfo(name="x", template="t", undetected=("thinking",))


def test_the_reason_of_a_refusal_within_a_stream_is_asked_for() -> None:
    request = decoded(stream=True, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2000})
    hidden, reason = AttemptFailed(FAILED, status=400), AttemptFailed("bad grammar", status=400)
    question = prompt.adapt(request, plan(UNDETECTED), hidden)
    assert isinstance(question, PreflightRequest)
    assert question.path == "/v1/messages"
    assert json.loads(question.body) == {"model": "x", "max_tokens": 1, "messages": HELLO}
    with pytest.raises(AttemptFailed) as unexplained:
        question.then(b"{}")
    assert unexplained.value is hidden
    with pytest.raises(AttemptFailed) as explained:
        prompt.adapt(request, plan(UNDETECTED), hidden, reason)
    assert explained.value is reason
    repeated = prompt.adapt(request, plan(UNDETECTED), hidden, AttemptFailed(NO_BUDGET, status=400))
    assert repeated is not None
    assert json.loads(outgoing(repeated).body) == {"model": "x", "max_tokens": 4000, "messages": HELLO, "stream": True}


def test_a_fault_within_a_stream_is_not_asked_about() -> None:
    assert prompt.adapt(decoded(stream=True), plan(), AttemptFailed(FAILED, status=500)) is None


def test_missing_abilities_of_a_worker_are_explained() -> None:
    text = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    with pytest.raises(Refused) as refused:
        prompt.adapt(decoded(tools=[TOOL]), plan(), AttemptFailed(text, status=400))
    assert refused.value.text == "registry.ollama.ai/library/m:latest does not support tools"


def test_the_translator_depends_on_streaming() -> None:
    assert isinstance(prompt.translator(decoded(stream=True), TIMING, CLOCK), MessageStream)
    assert isinstance(prompt.translator(decoded(), TIMING, CLOCK), WholeAnswer)

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, TIMING, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused, Unavailable
from vllama_pool.router.protocol.openai.responses.requests import STATEFUL
from vllama_pool.router.protocol.openai.responses.stream import ResponsesStream
from vllama_pool.router.protocol.operation import Operation, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer
from vllama_pool.workers.registry.record import ModelInfo

ACCEPTED = b'{"object":"response","status":"incomplete","output":[]}'
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
USER = {"type": "message", "role": "user", "content": "hi"}
OPERATION: Operation[Any] = next(each for each in operations(CLOCK) if each.path == "/v1/responses")


def decode(**fields: Any) -> Any:
    return OPERATION.decode(json.dumps({"model": "X", "input": "hi", **fields}).encode())


def sent(info: ModelInfo = THINKER, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    call = decode(**fields)
    assert OPERATION.check(call, info) is None
    step = OPERATION.prepare(call, info, defaults)
    if isinstance(step, PreflightRequest):
        step = step.then(ACCEPTED)
    assert isinstance(step, UpstreamRequest)
    assert step.path == "/v1/responses"
    assert step.whole != call.stream
    result: dict[str, Any] = json.loads(step.body)
    return result


def adapted(*texts: str, info: ModelInfo = THINKER, status: int = 400, **fields: Any) -> dict[str, Any] | None:
    assert OPERATION.adapt is not None
    refusals = [Refused(text, status=status) for text in texts]
    step = OPERATION.adapt(decode(**fields), info, NO_DEFAULTS, *refusals)
    return json.loads(outgoing(step).body) if step is not None else None


def test_a_text_is_sent_as_one_message_that_is_not_stored() -> None:
    assert sent() == {"model": "qwen3-tiny", "input": [USER], "store": False}


def test_known_fields_are_forwarded() -> None:
    fields = {
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 7,
        "stop": ["x"],
        "user": "me",
        "metadata": {"a": "b"},
        "truncation": "auto",
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 9,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "instructions": "be short",
        "tools": [FUNCTION],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tool_calls": 2,
        "logit_bias": {"5": 1.0},
        "chat_template_kwargs": {"x": True},
        "structured_outputs": {"regex": "a"},
    }
    assert sent(**fields) == {"model": "qwen3-tiny", "input": [USER], "store": False, **fields}


def test_unknown_fields_are_dropped() -> None:
    fields = {
        "request_id": "x",
        "session_id": "x",
        "client_metadata": {},
        "enable_response_messages": True,
        "max_tokens": 5,
        "stream_options": {"include_obfuscation": True},
        "safety_identifier": "x",
        "n": 5,
        "store": None,
        "background": False,
        "previous_response_id": None,
        "conversation": None,
        "prompt": None,
        "service_tier": "fast",
        "include": ["web_search_call.action.sources"],
        "max_tool_calls": 3,
        "stream_interval": 9,
        "truncate_prompt_tokens": 5,
        "tools": [{"type": "web_search"}],
    }
    assert sent(**fields) == {"model": "qwen3-tiny", "input": [USER], "store": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("conversation", {"id": "conv_1"})),
        *(("background", True), ("store", True), ("prompt", {"id": "pmpt_1"})),
    ],
)
def test_what_needs_a_memory_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(**{name: value})
    assert caught.value.text == f"'{name}' is not supported: {STATEFUL[name]}"
    assert caught.value.param == name


@pytest.mark.parametrize(
    "name",
    [
        *("cache_salt", "priority", "vllm_xargs", "kv_transfer_params", "ec_transfer_params", "media_io_kwargs"),
        *("mm_processor_kwargs", "chat_template", "previous_input_messages", "mm_payload", "return_mm_kwargs"),
    ],
)
def test_fields_that_reach_into_the_server_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=f"'{name}' is not accepted from clients"):
        decode(**{name: "x"})


@pytest.mark.parametrize(
    ("fields", "text", "param"),
    [
        ({"input": None}, "Missing required parameter: 'input'.", "input"),
        ({"input": ""}, "'input' is empty", "input"),
        ({"input": []}, "'input' is empty", "input"),
        ({"input": 5}, "Invalid type for 'input'", "input"),
        ({"input": {"role": "user"}}, "Invalid type for 'input'", "input"),
        ({"model": " "}, "model is required", "model"),
        ({"max_output_tokens": 0}, "Invalid 'max_output_tokens': integer below", "max_output_tokens"),
        ({"max_output_tokens": "x"}, "Invalid type for 'max_output_tokens'", "max_output_tokens"),
        ({"max_tool_calls": 0}, "Invalid 'max_tool_calls'", "max_tool_calls"),
        ({"top_logprobs": -1}, "Invalid 'top_logprobs'", "top_logprobs"),
        ({"truncation": "x"}, "Invalid value: 'x'. Supported values are: 'auto', 'disabled'.", "truncation"),
        ({"reasoning": {"effort": "x"}}, "Invalid value: 'x'. Supported values are: 'none',", "reasoning.effort"),
        ({"reasoning": {"summary": "x"}}, "Invalid value: 'x'.", "reasoning.summary"),
        ({"text": {"verbosity": "x"}}, "Invalid value: 'x'.", "text.verbosity"),
        ({"text": {"format": {"type": "x"}}}, "Invalid value: 'x'.", "text.format.type"),
        ({"text": {"format": {}}}, "Missing required parameter: 'text.format.type'.", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "Missing required", "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "Missing required", "text.format.schema"),
        *(
            ({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}, text, "text.format.schema")
            for schema, text in ((None, "Missing required"), ("x", "Invalid type for 'text.format.schema'"))
        ),
        (
            {"input": [{"type": "additional_tools", "tools": [{}]}, USER]},
            "Invalid value: ''.",
            "input[0].tools[0].type",
        ),
        ({"chat_template_kwargs": {"tools": True}}, "'chat_template_kwargs.tools' is", "chat_template_kwargs.tools"),
        ({"tools": "x"}, "Invalid type for 'tools'", "tools"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], text: str, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(**fields)
    assert caught.value.text.startswith(text)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "text"),
    [
        *((b"", "EOF"), (b"{", "not valid JSON"), (b"[]", "must be a JSON object")),
        (b'{"model":"X","input":"x","previous_response_id":1e999}', "Invalid value for 'previous_response_id'"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        OPERATION.decode(body)


@pytest.mark.parametrize(("effort", "expected"), [("ultra", "max"), ("none", "none")])
def test_an_effort_is_sent_in_vllms_words(effort: str, expected: str) -> None:
    assert sent(reasoning={"effort": effort, "summary": "none", "context": "auto"})["reasoning"] == {"effort": expected}


def test_a_model_that_cannot_think_gets_no_effort() -> None:
    assert sent(MODEL, reasoning={"effort": "high", "summary": "auto"})["reasoning"] == {"summary": "auto"}


def test_the_answers_limit_is_lowered_to_the_context() -> None:
    assert sent(max_output_tokens=200_000)["max_output_tokens"] == 1024


def test_the_models_defaults_apply_where_the_request_has_none() -> None:
    defaults = Defaults(options={"temperature": 0.1, "top_p": 0.2, "num_predict": 7}, system="be a pirate")
    body = sent(defaults=defaults, temperature=0.5)
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.2, 7)
    assert (body["instructions"], body["input"]) == ("be a pirate", [USER])
    assert "max_tokens" not in body
    assert sent(defaults=defaults, max_output_tokens=3)["max_output_tokens"] == 3


def test_instructions_and_a_leading_system_message_replace_the_models() -> None:
    defaults = Defaults(system="be a pirate")
    assert sent(defaults=defaults, instructions="be short")["instructions"] == "be short"
    leading = {"type": "message", "role": "system", "content": "be short"}
    body = sent(defaults=defaults, input=[leading, USER])
    assert "be a pirate" not in json.dumps(body)


def test_the_clients_own_system_message_stays_an_item() -> None:
    leading = {"type": "message", "role": "system", "content": "be short"}
    assert sent(input=[leading, USER]) == {"model": "qwen3-tiny", "input": [leading, USER], "store": False}


@pytest.mark.parametrize(
    ("info", "fields", "text"),
    [
        (MODEL, {"tools": [FUNCTION]}, "does not support tools"),
        (THINKER, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:;base64,"}]}]},
         "does not support vision"),
        (ModelInfo(name="e", capabilities=("embedding",)), {}, '"X" does not support chat'),
        (ModelInfo(name="i", capabilities=("image",)), {}, "image generation models are not currently supported"),
        (ModelInfo(name="p", has_template=False), {}, "chat needs a chat template"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_do_it_is_refused(info: ModelInfo, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        OPERATION.check(decode(**fields), info)


@pytest.mark.parametrize("fields", [{"tools": [{"type": "web_search"}]}, {"tools": [FUNCTION], "tool_choice": "none"}])
def test_a_model_without_tools_serves_requests_that_need_none(fields: dict[str, Any]) -> None:
    assert OPERATION.check(decode(**fields), MODEL) is None


TURNS = [
    {"type": "message", "role": "user", "content": "a"},
    {"type": "message", "role": "system", "content": "s"},
    {"type": "message", "role": "user", "content": "b"},
]


def test_system_texts_are_gathered_for_a_template_that_refuses_them_elsewhere() -> None:
    info = msgspec.structs.replace(THINKER, template="{{ system }} tool")
    body = adapted("System message must be at the beginning.", info=info, input=TURNS, instructions="i")
    assert body is not None
    assert body["instructions"] == "i\n\ns"
    assert body["input"] == [{"type": "message", "role": "user", "content": "a\n\nb"}]


def test_a_template_without_a_system_role_gets_the_text_before_the_users() -> None:
    body = adapted("System role not supported", input="hi", instructions="i")
    assert body is not None
    assert "instructions" not in body
    assert body["input"] == [{"type": "message", "role": "user", "content": "i\n\nhi"}]


def test_the_answers_limit_is_lowered_to_that_which_the_worker_names() -> None:
    text = "max_output_tokens=800 cannot be greater than max_model_len=512. Please request fewer output tokens."
    body = adapted(text, max_output_tokens=800)
    assert body is not None
    assert body["max_output_tokens"] == 512
    body = adapted(text, "System role not supported", max_output_tokens=800, instructions="i")
    assert body is not None
    assert (body["max_output_tokens"], body["input"][0]["content"]) == (512, "i\n\nhi")


def test_an_effort_that_the_model_does_not_take_is_left_out() -> None:
    text = "reasoning_effort='medium' is not supported for this model"
    body = adapted(text, reasoning={"effort": "medium", "summary": "auto"})
    assert body is not None
    assert body["reasoning"] == {"summary": "auto"}
    assert adapted(text) is None


def test_other_refusals_reach_the_client() -> None:
    assert adapted("temperature must be non-negative") is None


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    failure = Refused(CONTEXT_EXCEEDED, status=400)
    failure.original = "This model's maximum context length is 1024 tokens."
    assert OPERATION.adapt is not None
    with pytest.raises(Refused) as caught:
        OPERATION.adapt(decode(), THINKER, NO_DEFAULTS, failure)
    error: AttemptFailed = caught.value
    assert (error.text, error.param, error.code) == (failure.original, "input", "context_length_exceeded")


def test_a_worker_without_tools_has_ollamas_text() -> None:
    with pytest.raises(Refused, match="does not support tools"):
        adapted('"auto" tool choice requires --enable-auto-tool-choice', tools=[FUNCTION])


@pytest.mark.parametrize(("stream", "kind"), [(True, ResponsesStream), (False, WholeAnswer), (None, WholeAnswer)])
def test_answers_are_events_or_one_object(stream: bool | None, kind: type) -> None:
    call = decode(stream=stream)
    assert isinstance(OPERATION.translator(call, TIMING, CLOCK), kind)
    assert OPERATION.content_type(call).startswith("text/event-stream" if stream else "application/json")
    assert (call.streams_answer, call.keep_alive) == (bool(stream), None)


def test_a_whole_answer_has_the_models_name_and_its_usage() -> None:
    translator = OPERATION.translator(decode(), TIMING, CLOCK)
    answer = {"id": "resp_1", "metadata": {"model": "served"}, "model": "served", "status": "completed", "output": []}
    translator.feed(json.dumps({**answer, "usage": {"input_tokens": 5, "output_tokens": 2}}).encode())
    assert json.loads(translator.finish())["model"] == "X"
    assert (translator.done, translator.usage.completion_tokens, translator.usage.done_reason) == (True, 2, "completed")


def test_reasoning_of_a_whole_answer_is_also_encrypted_content_where_the_client_asks_for_it() -> None:
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "why"}], "encrypted_content": None}
    message = {"type": "message", "content": [{"type": "output_text", "text": '"reasoning"'}]}
    answer = {"id": "resp_1", "model": "served", "status": "completed", "output": [thought, message]}
    for include, encrypted in ((["reasoning.encrypted_content"], "why"), (None, None)):
        translator = OPERATION.translator(decode(include=include), TIMING, CLOCK)
        translator.feed(json.dumps(answer).encode())
        assert json.loads(translator.finish())["output"] == [{**thought, "encrypted_content": encrypted}, message]


SCHEMA = {"format": {"type": "json_schema", "name": "n", "schema": {"type": 5}}}
STRICT = {**FUNCTION, "strict": True}
LATE: list[dict[str, Any]] = [
    {"text": SCHEMA},
    {"structured_outputs": {"regex": "("}},
    {"logit_bias": {"999999": 1}},
    {"stop_token_ids": [999999]},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 99},
    {"tools": [FUNCTION], "tool_choice": "required"},
    {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
    {"tools": [STRICT]},
    {"tools": [{"type": "namespace", "name": "n", "tools": [STRICT]}]},
]


def operation() -> Operation[Any]:
    return next(each for each in operations(CLOCK) if each.path == "/v1/responses")


@pytest.mark.parametrize("answer", [b"", b"{}", b"<html>", b'{"status":null}'])
def test_a_trial_that_gets_no_answer_fails_and_is_tried_again(answer: bytes) -> None:
    tested, call = operation(), decode(stream=True, **LATE[0])
    trial = tested.prepare(call, THINKER, NO_DEFAULTS)
    assert isinstance(trial, PreflightRequest)
    with pytest.raises(Unavailable):
        trial.then(answer)
    assert isinstance(tested.prepare(call, THINKER, NO_DEFAULTS), PreflightRequest)


@pytest.mark.parametrize("fields", LATE, ids=str)
def test_what_vllm_checks_in_mid_stream_is_tried_first_and_once(fields: dict[str, Any]) -> None:
    tested = operation()
    call = decode(stream=True, max_output_tokens=50, **fields)
    trial = tested.prepare(call, THINKER, NO_DEFAULTS)
    assert isinstance(trial, PreflightRequest)
    step = trial.then(ACCEPTED)
    assert isinstance(step, UpstreamRequest)
    whole = {**json.loads(step.body), "stream": False, "max_output_tokens": 1}
    assert (trial.path, json.loads(trial.body)) == (step.path, whole)
    assert tested.prepare(call, THINKER, NO_DEFAULTS) == step
    assert isinstance(
        tested.prepare(call, msgspec.structs.replace(THINKER, name="other"), NO_DEFAULTS), PreflightRequest
    )


@pytest.mark.parametrize("fields", LATE, ids=str)
def test_a_whole_answer_needs_no_trial(fields: dict[str, Any]) -> None:
    assert isinstance(operation().prepare(decode(**fields), THINKER, NO_DEFAULTS), UpstreamRequest)


@pytest.mark.parametrize("fields", [{}, {"tools": [FUNCTION]}, {"tools": [STRICT], "tool_choice": "none"}], ids=str)
def test_other_streams_need_no_trial(fields: dict[str, Any]) -> None:
    fields = {"include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"}, **fields}
    assert isinstance(operation().prepare(decode(stream=True, **fields), THINKER, NO_DEFAULTS), UpstreamRequest)


def test_a_refused_trial_reaches_the_client() -> None:
    assert adapted("Grammar error: type must be a string or array of strings", stream=True, text=SCHEMA) is None


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
def test_items_bring_tools(kind: str) -> None:
    item = {"type": kind, "role": "developer", "tools": [{**FUNCTION, "name": "g"}, {"type": "web_search"}]}
    body = sent(tools=[FUNCTION], input=[item, USER])
    assert [tool["name"] for tool in body["tools"]] == ["f", "g"]
    assert body["input"] == [USER]
    assert sent(input=[item, USER], tool_choice="required")["tool_choice"] == "required"

"""Hostile bodies: each is accepted, or refused with Ollama's text."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import CLOCK, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import BadRequest, ClientError, Refused
from vllama_pool.router.protocol.ollama import chat, generate, options, requests, show
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.simulated.requests import parse_chat, parse_completion

ABLE = ModelInfo(name="m", capabilities=("completion", "tools", "vision", "thinking", "insert"), has_template=True)
FEW = b'"messages":[{"role":"user","content":"x"}],"prompt":"x"'


def upstream_body(body: bytes) -> dict[str, Any]:
    """Return the request to vLLM. Raises ClientError."""
    request = requests.decode_chat(body)
    assert chat.check(request, ABLE, CLOCK) is None
    result: dict[str, Any] = json.loads(outgoing(chat.prepare(request, ModelPlan(ABLE, NO_DEFAULTS), CLOCK)).body)
    return result


@pytest.mark.parametrize(
    "field", [b'"format":{"const":"\xff"}', b'"tools":[{"function":{"name":"f","parameters":{"a":"\xff"}}}]']
)
def test_invalid_utf8_is_replaced_in_raw_fields(field: bytes) -> None:
    assert "\ufffd" in json.dumps(upstream_body(b'{"model":"m",%b,%b}' % (FEW, field)), ensure_ascii=False)


def test_invalid_utf8_is_replaced_in_call_arguments() -> None:
    call = b'{"function":{"name":"f","arguments":{"a":"\xff"}}}'
    message = upstream_body(b'{"model":"m","messages":[{"role":"assistant","tool_calls":[%b]}]}' % call)["messages"][0]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": "\ufffd"}


def test_invalid_utf8_in_format_is_an_invalid_format() -> None:
    with pytest.raises(ClientError, match="invalid format"):
        upstream_body(b'{"model":"m",%b,"format":"\xff"}' % FEW)


@pytest.mark.parametrize("field", ["think", "keep_alive", "format", "options", "unknown"])
@pytest.mark.parametrize("depth", [900, 980, 990, 995, 1000, 5000, 100_000])
def test_deep_nesting_is_accepted_or_refused(field: str, depth: int) -> None:
    body = b'{"model":"m",%b,"%b":%b%b}' % (FEW, field.encode(), b"[" * depth, b"]" * depth)
    for decode in (requests.decode_chat, requests.decode_generate, show.decode_show):
        with contextlib.suppress(BadRequest):
            decode(body)


def test_numbers_above_a_floats_range_are_clamped() -> None:
    huge = "9" * 310
    options = f'{{"temperature":{huge},"top_p":{huge},"repeat_penalty":{huge},"top_k":{huge},"seed":{huge}}}'
    request = upstream_body(b'{"model":"m","messages":[{"role":"user"}],"options":%b}' % options.encode())
    assert (request["temperature"], request["top_p"], request["top_k"]) == (2.0, 1.0, 2**31 - 1)
    assert request["repetition_penalty"] == 1e9
    assert request["seed"] == 2**63 - 1


@pytest.mark.parametrize("breaks", [70, 5000])
def test_an_image_may_begin_with_line_breaks(breaks: int) -> None:
    image = "iV" + "\n" * breaks + "BORw0KGgo="
    body = json.dumps({"model": "m", "messages": [{"role": "user", "images": [image]}]}).encode()
    part = upstream_body(body)["messages"][0]["content"][0]
    assert part["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


def test_non_ascii_digits_are_not_a_duration() -> None:
    with pytest.raises(BadRequest, match="invalid duration"):
        requests.decode_generate('{"model":"m","keep_alive":"\u0663s"}'.encode())


def test_invalid_utf8_is_replaced_in_generate_requests() -> None:
    request = requests.decode_generate(b'{"model":"m","prompt":"x","format":{"const":"\xff"}}')
    assert generate.check(request, ABLE, CLOCK) is None
    assert "\ufffd" in outgoing(generate.prepare(request, ModelPlan(ABLE, NO_DEFAULTS), CLOCK)).body.decode()


TEXT = st.text(max_size=8)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": TEXT, "arguments": st.dictionaries(TEXT, st.integers(), max_size=2)})},
    optional={"id": TEXT},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "User", "assistant", "tool", "developer", ""])},
    optional={
        "content": TEXT | st.none(),
        "thinking": TEXT,
        "tool_calls": st.lists(CALL, max_size=3) | st.none(),
        "tool_name": TEXT,
        "tool_call_id": TEXT,
    },
)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
REQUEST = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(MESSAGE, min_size=1, max_size=6), "prompt": st.just("x")},
    optional={
        "options": st.dictionaries(st.sampled_from(sorted(options.KNOWN - {"stop", "use_mmap"})), NUMBER, max_size=6),
        "think": st.sampled_from([True, False, "low", "max", None]),
        "format": st.sampled_from(["json", "", None, {"type": "boolean"}]),
        "tools": st.sampled_from([[], None, [{"type": "function", "function": {"name": "f"}}]]),
        "context": st.lists(st.integers(0, 2**31), max_size=3),
        "raw": st.booleans(),
        "system": TEXT,
        "truncate": st.booleans(),
        "logprobs": st.booleans(),
        "_debug_render_only": st.booleans(),
    },
)
ANSWERS = {
    "/tokenize": b'{"count":3,"max_model_len":8,"tokens":[1,2,3],"token_strs":["a",null,"<think>"]}',
    "/detokenize": b'{"prompt":"text"}',
}


def followed(step: NextStep | None) -> UpstreamRequest | DirectResponse | None:
    while isinstance(step, PreflightRequest):
        step = step.then(ANSWERS[step.path])
    return step


@given(REQUEST, st.sampled_from(["chat", "generate"]), st.booleans())
def test_every_accepted_request_can_be_sent_and_shortened(
    fields: dict[str, Any], name: str, has_template: bool
) -> None:
    """The simulated worker accepts every resulting request."""
    operation = next(operation for operation in operations(CLOCK) if operation.name == name)
    info = msgspec.structs.replace(ABLE, has_template=has_template, template="<think>", context_length=64)
    request = operation.decode(json.dumps(fields).encode())
    try:
        assert operation.check(request, info, NO_DEFAULTS) is None
    except ClientError:
        return
    assert operation.adapt is not None
    too_long = Refused(CONTEXT_EXCEEDED, status=400)
    for step in (operation.prepare(request, info, NO_DEFAULTS), operation.adapt(request, info, NO_DEFAULTS, too_long)):
        sent = followed(step)
        if isinstance(sent, UpstreamRequest):
            parse = parse_chat if sent.path.endswith("chat/completions") else parse_completion
            parse(sent.body, "application/json", max_stop=1000)

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate

generate = decode_generate

MALFORMED = {
    "{": "unexpected EOF",
    '{"model"': "unexpected EOF",
    '{"model": "x"': "unexpected EOF",
    '{"model": "x': "unexpected EOF",
    "x": "invalid character 'x' looking for beginning of value",
    "model=x": "invalid character 'm' looking for beginning of value",
    "'": "invalid character '\\'' looking for beginning of value",
    "{'model'": "invalid character '\\'' looking for beginning of object key string",
    "{model": "invalid character 'm' looking for beginning of object key string",
    '{"a" 1}': "invalid character '1' after object key",
    '{"a":1 "b"': "invalid character '\"' after object key:value pair",
    '{"a":01}': "invalid character '1' after object key:value pair",
    '{"a":NaN}': "invalid character 'N' looking for beginning of value",
    '{"a":-Infinity}': "invalid character 'I' looking for beginning of value",
    '{"a":"\n"}': "invalid character '\\n' in string literal",
    "\ufeff{}": "invalid character 'ï' looking for beginning of value",
    '{"a":\x7f}': "invalid character '\\x7f' looking for beginning of value",
}
"""Bodies, and the texts of Go's encoding/json."""


@pytest.mark.rule(151)
@pytest.mark.parametrize(("body", "text"), MALFORMED.items())
def test_malformed_json_is_refused_with_gos_text(body: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_generate(body.encode())
    assert (caught.value.status, caught.value.text) == (400, text)


@pytest.mark.rule(151)
@pytest.mark.parametrize(
    "body",
    ['{"a":tx}', '{"a":nul }', '{"a":-}', '{"a":1.}', '{"a":1e}', '{"a":[1 2]}', '{"a":"\\q"}', '{"a":"\\u12g4"}'],
)
def test_other_malformed_json_is_refused_with_nearly_gos_text(body: str) -> None:
    """The position and the scanner state may differ."""
    with pytest.raises(BadRequest, match=r"^invalid character '.+' (looking for|after|in) "):
        decode_generate(body.encode())


@pytest.mark.rule(151)
@pytest.mark.parametrize("body", [b'{"a":1,}', b'{"a":[1,]}', b'{"a":[}'])
def test_a_misplaced_bracket_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^invalid character '[\]}]' looking for beginning of "):
        decode_generate(body)


@pytest.mark.rule(150)
@pytest.mark.parametrize("body", [b"", b"  \n\t"])
def test_an_empty_body_is_reported_as_missing(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^missing request body$"):
        decode_chat(body)


WRONG_TYPES = {
    '{"model":"x","stream":"yes"}': "string into Go struct field GenerateRequest.stream of type bool",
    '{"model":1}': "number into Go struct field GenerateRequest.model of type string",
    '{"model":"x","prompt":["a"]}': "array into Go struct field GenerateRequest.prompt of type string",
    '{"model":"x","options":"hot"}': "string into Go struct field GenerateRequest.options "
    "of type map[string]interface {}",
    '{"model":"x","top_logprobs":1.5}': "number 1.5 into Go struct field GenerateRequest.top_logprobs of type int",
    '{"model":"x","context":["a"]}': "string into Go struct field GenerateRequest.context of type int",
    '{"model":"x","raw":null,"RAW":{}}': "object into Go struct field GenerateRequest.raw of type bool",
    "[]": "array into Go value of type api.GenerateRequest",
    '"x"': "string into Go value of type api.GenerateRequest",
    "true": "bool into Go value of type api.GenerateRequest",
}


@pytest.mark.rule(152)
@pytest.mark.parametrize(("body", "text"), WRONG_TYPES.items())
def test_wrong_types_are_refused_with_gos_text(body: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_generate(body.encode())
    assert (caught.value.status, caught.value.text) == (400, f"json: cannot unmarshal {text}")


WRONG_IN_CHAT = {
    '{"messages":"hi"}': "string into Go struct field ChatRequest.messages of type []api.Message",
    '{"messages":["hi"]}': "string into Go struct field ChatRequest.messages of type api.Message",
    '{"messages":[{"content":[{"type":"text"}]}]}': "array into Go struct field "
    "ChatRequest.messages.content of type string",
    '{"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}': "string into Go struct field "
    "ChatRequest.messages.tool_calls.function.arguments of type api.ToolCallFunctionArguments",
    '{"tools":{}}': "object into Go struct field ChatRequest.tools of type api.Tools",
    '{"tools":[{"function":{"name":"f","parameters":"x"}}]}': "string into Go struct field "
    "ChatRequest.tools.function.parameters of type api.ToolFunctionParameters",
}


@pytest.mark.rule(73, 76)
@pytest.mark.parametrize(("body", "text"), WRONG_IN_CHAT.items())
def test_wrong_types_within_messages_are_refused_with_their_path(body: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_chat(b'{"model":"x",' + body[1:].encode())
    assert caught.value.text == f"json: cannot unmarshal {text}"


@pytest.mark.rule(39)
def test_key_case_unknown_keys_and_trailing_data_are_ignored() -> None:
    request = generate(b' {"MODEL":"x","Prompt":"hi","STREAM":false,"temperature":2,"foo":{"bar":[1]}} trailing')
    assert (request.model, request.prompt, request.stream) == ("x", "hi", False)


@pytest.mark.rule(39)
def test_the_last_of_duplicate_keys_wins_whatever_its_case() -> None:
    assert generate(b'{"model":"a","model":"b"}').model == "b"
    assert generate(b'{"model":"a","MODEL":"b"}').model == "b"
    assert generate(b'{"model":"a","MODEL":"b","model":"c"}').model == "c"


@pytest.mark.rule(39)
def test_null_is_absent_for_every_field() -> None:
    names = ["prompt", "suffix", "system", "template", "context", "stream", "raw", "format", "keep_alive", "images"]
    names += ["options", "think", "truncate", "shift", "logprobs", "top_logprobs", "_debug_render_only"]
    given = generate(json.dumps({"model": "x"} | dict.fromkeys(names)).encode())
    plain = generate(b'{"model":"x"}')
    for name in names:
        field = name.removeprefix("_")
        absent = bytes(given.format) in (b"", b"null") if name == "format" else True
        assert absent
        assert name == "format" or getattr(given, field) == getattr(plain, field)


def test_invalid_unicode_is_replaced_as_go_does() -> None:
    assert generate(b'{"model":"x","prompt":"a\xffb"}').prompt == "a\ufffdb"
    assert generate(b'{"model":"x","prompt":"a\\ud800b"}').prompt == "a\ufffdb"
    assert generate(b'{"Model":"x","prompt":"\\ud83e\\udd99"}').prompt == "🦙"


def test_excessive_nesting_and_numbers_are_refused() -> None:
    for body in (b"[" * 200_000, b'{"a":' * 50_000, b'{"model":"x","options":' + b'{"a":[' * 40_000):
        with pytest.raises(BadRequest):
            generate(body)
    for number in (b"1e999", b"-1e999", b"9" * 5000):
        with pytest.raises(BadRequest):
            generate(b'{"model":"x","options":{"temperature":' + number + b"}}")


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    for decode in (decode_chat, decode_generate):
        with contextlib.suppress(ClientError):
            decode(body)


@pytest.mark.rule(151)
def test_a_syntax_error_at_the_end_of_a_large_body_is_found_quickly() -> None:
    body = b'{"model":"m","x":[' + b"1," * 2_000_000 + b"x"
    began = time.process_time()
    with pytest.raises(BadRequest, match=r"^invalid character 'x' looking for beginning of value$"):
        decode_chat(body)
    assert time.process_time() - began < 1.5

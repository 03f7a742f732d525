from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.protocol.ollama.gojson import syntax_error
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate

generate = decode_generate

# What Go's encoding/json says of these, byte for byte.
MALFORMED = {
    "{": "unexpected EOF",
    '{"model"': "unexpected EOF",
    '{"model": "x"': "unexpected EOF",
    '{"model": "x': "unexpected EOF",
    '{"model": tru': "unexpected EOF",
    '{"model": 1e': "unexpected EOF",
    "x": "invalid character 'x' looking for beginning of value",
    "model=x": "invalid character 'm' looking for beginning of value",
    "'": "invalid character '\\'' looking for beginning of value",
    "{'model'": "invalid character '\\'' looking for beginning of object key string",
    "{model": "invalid character 'm' looking for beginning of object key string",
    '{"a":1,}': "invalid character '}' looking for beginning of object key string",
    '{"a" 1}': "invalid character '1' after object key",
    '{"a":1 "b"': "invalid character '\"' after object key:value pair",
    '{"a":[1 2]}': "invalid character '2' after array element",
    '{"a":[1,]}': "invalid character ']' looking for beginning of value",
    '{"a":tx}': "invalid character 'x' in literal true (expecting 'r')",
    '{"a":nul }': "invalid character ' ' in literal null (expecting 'l')",
    '{"a":NaN}': "invalid character 'N' looking for beginning of value",
    '{"a":-}': "invalid character '}' in numeric literal",
    '{"a":1.}': "invalid character '}' after decimal point in numeric literal",
    '{"a":1e}': "invalid character '}' in exponent of numeric literal",
    '{"a":01}': "invalid character '1' after object key:value pair",
    '{"a":"\n"}': "invalid character '\\n' in string literal",
    '{"a":"\\q"}': "invalid character 'q' in string escape code",
    '{"a":"\\u12g4"}': "invalid character 'g' in \\u hexadecimal character escape",
    "\ufeff{}": "invalid character 'ï' looking for beginning of value",
    '{"a":\x7f}': "invalid character '\\x7f' looking for beginning of value",
}


@pytest.mark.rule(151)
@pytest.mark.parametrize(("body", "text"), MALFORMED.items())
def test_malformed_json_is_refused_in_gos_words(body: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_generate(body.encode())
    assert (caught.value.status, caught.value.text) == (400, text)


@pytest.mark.rule(150)
@pytest.mark.parametrize("body", [b"", b"  \n\t"])
def test_an_empty_body_is_named(body: bytes) -> None:
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
def test_wrong_types_are_refused_in_gos_words(body: str, text: str) -> None:
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
def test_wrong_types_inside_messages_name_the_whole_path(body: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_chat(b'{"model":"x",' + body[1:].encode())
    assert caught.value.text == f"json: cannot unmarshal {text}"


@pytest.mark.rule(39)
def test_keys_in_any_case_unknown_keys_and_trailing_data() -> None:
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


def test_text_that_is_no_unicode_is_replaced_as_go_does() -> None:
    assert generate(b'{"model":"x","prompt":"a\xffb"}').prompt == "a\ufffdb"
    assert generate(b'{"model":"x","prompt":"a\\ud800b"}').prompt == "a\ufffdb"
    assert generate(b'{"Model":"x","prompt":"\\ud83e\\udd99"}').prompt == "🦙"


def test_absurd_nesting_and_numbers_are_refused_and_nothing_breaks() -> None:
    for body in (b"[" * 200_000, b'{"a":' * 50_000, b'{"model":"x","options":' + b'{"a":[' * 40_000):
        with pytest.raises(BadRequest):
            generate(body)
    for number in (b"1e999", b"-1e999", b"9" * 5000):
        with pytest.raises(BadRequest):
            generate(b'{"model":"x","options":{"temperature":' + number + b"}}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.booleans(),
)
def test_the_scanner_finds_nothing_wrong_with_valid_json(value: Any, ascii_only: bool) -> None:
    assert syntax_error(json.dumps(value, ensure_ascii=ascii_only)) == ""


@given(st.text(alphabet='{}[]",:\\ truefalsn0123.eE+-u\n', max_size=30))
def test_the_scanner_agrees_with_pythons_parser_on_what_is_valid(text: str) -> None:
    text = f"[{text}]"
    try:
        json.JSONDecoder().raw_decode(text)
        valid = True
    except ValueError:
        valid = False
    assert (syntax_error(text) == "") == valid


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    for decode in (decode_chat, decode_generate):
        with contextlib.suppress(ClientError):
            decode(body)


@pytest.mark.rule(151)
@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("x", "invalid character 'x' looking for beginning of value"),
        ("", "unexpected EOF"),
        ('"a', "unexpected EOF"),
        ("{a", "invalid character 'a' looking for beginning of object key string"),
        ('{"a" 1', "invalid character '1' after object key"),
        ("1 2", "invalid character '2' after array element"),
        ('"\x01"', "invalid character '\\x01' in string literal"),
    ],
)
def test_what_is_wrong_with_a_large_body_is_found_without_a_scan(rest: str, text: str) -> None:
    body = b'{"model":"m","x":[' + b"1," * 2_000_000 + rest.encode()
    began = time.process_time()
    with pytest.raises(BadRequest) as caught:
        decode_chat(body)
    assert caught.value.text == text
    assert time.process_time() - began < 1.5

"""JSON with Go's escapes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.json_lines import encode, encode_lines


@pytest.mark.rule(40)
@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<b>", rb'"\u003cb\u003e"'),
        ("a & b", rb'"a \u0026 b"'),
        ("\u2028\u2029", rb'"\u2028\u2029"'),
        ("\u2027é🦙", '"\u2027é🦙"'.encode()),
        ('"\\<', rb'"\"\\\u003c"'),
    ],
)
def test_markup_characters_are_escaped(text: str, written: bytes) -> None:
    assert encode(text) == written
    assert json.loads(written) == text


@pytest.mark.rule(40)
@given(st.text() | st.text(alphabet='<>&\u2028\u2029\\"u0'))
def test_every_encoded_text_can_be_decoded(text: str) -> None:
    data = encode({text: [text]})
    assert json.loads(data) == {text: [text]}
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(data.decode())


@given(st.lists(st.text() | st.text(alphabet='<&\u2028",\r\n')))
def test_each_value_has_a_line_of_its_own(texts: list[str]) -> None:
    assert encode_lines(texts) == b"".join(encode(text) + b"\n" for text in texts)
    assert encode_lines(texts).count(b"\n") == len(texts)

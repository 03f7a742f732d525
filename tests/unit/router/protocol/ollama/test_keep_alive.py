from __future__ import annotations

from typing import Any

import pytest

from vllama_pool.config.durations import FOREVER, SECOND
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama.embed import decode_embed, decode_embeddings
from vllama_pool.router.protocol.ollama.keep_alive import KeepAlive
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate

VALID = {
    0: 0,
    5: 5 * SECOND,
    60.0: 60 * SECOND,
    0.5: SECOND // 2,
    -1: FOREVER,
    -0.1: FOREVER,
    1e300: FOREVER,
    "0": 0,
    "5m": 300 * SECOND,
    "-1m": FOREVER,
}


@pytest.mark.rule(92)
@pytest.mark.parametrize(("value", "expected"), VALID.items())
def test_keep_alive_is_seconds_or_a_go_duration(value: Any, expected: int) -> None:
    assert KeepAlive.parse(value) == expected


INVALID = [
    ("5", 'time: missing unit in duration "5"'),
    (" 5m", 'time: invalid duration " 5m"'),
    (True, "Unsupported type: 'bool'"),
    ([1], "Unsupported type: '[]interface {}'"),
    ({}, "Unsupported type: 'map[string]interface {}'"),
]


@pytest.mark.rule(92)
@pytest.mark.parametrize(("value", "text"), INVALID)
def test_an_invalid_keep_alive_is_refused_with_ollamas_text(value: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        KeepAlive.parse(value)
    assert str(caught.value) == text


@pytest.mark.rule(92)
@pytest.mark.parametrize("decode", [decode_chat, decode_generate, decode_embed, decode_embeddings])
def test_every_endpoint_decodes_keep_alive_and_refuses_an_invalid_one(decode: Any) -> None:
    assert decode(b'{"model":"m","keep_alive":"5m"}').keep_alive == 300 * SECOND
    assert decode(b'{"model":"m","Keep_Alive":null}').keep_alive is None
    with pytest.raises(BadRequest, match=r"^Unsupported type: 'bool'$"):
        decode(b'{"model":"m","keep_alive":true}')


@pytest.mark.rule(166)
def test_broken_json_is_reported_before_an_invalid_keep_alive() -> None:
    with pytest.raises(BadRequest, match=r"^invalid character '}'"):
        decode_chat(b'{"model":"m","keep_alive":true,"messages":[}')

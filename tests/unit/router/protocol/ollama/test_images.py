from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.ollama.images import check_base64, illegal_at, sniff, wanted
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()

# What Go's base64.StdEncoding says of these.
ILLEGAL = {"data:image/png;base64,AAAA": 4, "A": 0, "AA": 0, "AAA": 0, "AAAAA": 4, "AAAA=": 4, "A===": 1}
ILLEGAL |= {
    "AA=": 3,
    "AA=A": 2,
    "AA==A": 4,
    "AAA=A": 4,
    "AAA==": 4,
    "AA AA": 2,
    "AA-A": 2,
    "ä": 0,
    "====": 0,
    "AA\n=": 4,
}


@pytest.mark.rule(154)
@pytest.mark.parametrize(("text", "position"), ILLEGAL.items())
def test_bad_base64_is_refused_with_gos_byte_position(text: str, position: int) -> None:
    with pytest.raises(BadRequest) as caught:
        check_base64(text)
    assert (caught.value.status, caught.value.text) == (400, f"illegal base64 data at input byte {position}")


@pytest.mark.parametrize("text", ["", PNG, "AAA=", "AA==", "AAAA\nAAAA\r\n", "AA=\n=", "AB=="])
def test_valid_base64_may_have_line_breaks(text: str) -> None:
    check_base64(text)


@given(st.text(alphabet="AQ+/=\n-", max_size=12))
def test_what_is_accepted_can_be_decoded(text: str) -> None:
    if illegal_at(text) is None:
        check_base64(text)
        binascii.a2b_base64(text.replace("\n", ""), strict_mode=True)
    else:
        with pytest.raises(BadRequest):
            check_base64(text)


@given(st.binary(max_size=80))
def test_every_encoding_is_accepted(data: bytes) -> None:
    check_base64(base64.b64encode(data).decode())
    assert illegal_at(base64.b64encode(data).decode()) is None


@pytest.mark.rule(59)
def test_images_are_checked_when_the_body_is_read() -> None:
    for decode, body in (
        (decode_generate, b'{"model":"nope","images":["data:x"]}'),
        (decode_chat, b'{"model":"nope","messages":[{"role":"user","images":["data:x"]}]}'),
    ):
        with pytest.raises(BadRequest, match=r"^illegal base64 data at input byte 4$"):
            decode(body)


KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff\xe0": "image/jpeg",
    b"GIF89a": "image/gif",
    b"RIFF\0\0\0\0WEBP": "image/webp",
    b"RIFF\0\0\0\0WAVE": "audio/wav",
    b"ID3\x04": "audio/mp3",
    b"\xff\xfb\x90": "audio/mp3",
    b"BM": "application/octet-stream",
    b"": "application/octet-stream",
}


@pytest.mark.rule(59)
@pytest.mark.parametrize(("head", "kind"), KINDS.items())
def test_the_kind_is_sniffed(head: bytes, kind: str) -> None:
    assert sniff(base64.b64encode(head + bytes(40) if head else b"").decode()) == kind


def test_a_model_must_see_or_hear_what_it_is_sent() -> None:
    wave = base64.b64encode(b"RIFF\0\0\0\0WAVE" + bytes(20)).decode()
    assert wanted([PNG]) == ["vision"]
    assert wanted([wave, PNG]) == ["vision", "audio"]
    assert wanted([]) == []

from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.media import check_base64, required_capabilities, sniff
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()

ILLEGAL = {"data:image/png;base64,AAAA": 4, "AA AA": 2, "AA-A": 2, "ä": 0, "AAAA\n!": 5, "AAA": 0, "AAAAA": 4}
"""Offsets that Go's base64.StdEncoding reports."""


@pytest.mark.rule(154)
@pytest.mark.parametrize(("text", "position"), ILLEGAL.items())
def test_bad_base64_is_refused_with_gos_byte_offset(text: str, position: int) -> None:
    with pytest.raises(BadRequest) as caught:
        check_base64(text)
    assert (caught.value.status, caught.value.text) == (400, f"illegal base64 data at input byte {position}")


@pytest.mark.rule(154)
@pytest.mark.parametrize("text", ["AAAA=", "A===", "AA=", "AA=A", "AA==A", "AAA=A", "AAA==", "====", "AA\n="])
def test_bad_padding_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^illegal base64 data at input byte \d+$"):
        check_base64(text)


@pytest.mark.parametrize("text", ["", PNG, "AAA=", "AA==", "AAAA\nAAAA\r\n", "AA=\n=", "AB=="])
def test_valid_base64_may_have_line_breaks(text: str) -> None:
    check_base64(text)


@given(st.text(alphabet="AQ+/=\n-", max_size=12))
def test_accepted_base64_can_be_decoded(text: str) -> None:
    try:
        check_base64(text)
    except BadRequest:
        return
    binascii.a2b_base64(text.replace("\n", ""), strict_mode=True)


@given(st.binary(max_size=80))
def test_every_encoding_is_accepted(data: bytes) -> None:
    check_base64(base64.b64encode(data).decode())


@pytest.mark.rule(59)
@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (decode_generate, b'{"model":"nope","images":["data:x"]}'),
        (decode_chat, b'{"model":"nope","messages":[{"role":"user","images":["data:x"]}]}'),
    ],
)
def test_images_are_checked_on_decode(decode: type, body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^illegal base64 data at input byte 4$"):
        decode(body)


TYPES = {
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
@pytest.mark.parametrize(("head", "media_type"), TYPES.items())
def test_the_media_type_is_sniffed(head: bytes, media_type: str) -> None:
    assert sniff(base64.b64encode(head + bytes(40) if head else b"").decode()) == media_type


def test_images_require_vision_and_audio_requires_audio() -> None:
    wave = base64.b64encode(b"RIFF\0\0\0\0WAVE" + bytes(20)).decode()
    assert required_capabilities([PNG]) == ["vision"]
    assert required_capabilities([wave, PNG]) == ["vision", "audio"]
    assert required_capabilities([]) == []

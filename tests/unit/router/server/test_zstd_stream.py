"""zstd frames, decoded piece by piece."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.support.zstd import frame, skippable
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.server.zstd_stream import MAX_FRAMES, ZstdStream

TEXT = random.Random(1).randbytes(200_000) + b"a" * 3_000_000


def decode(*parts: bytes, size: int = 70_000) -> bytes:
    stream, pieces = ZstdStream(), []
    for part in parts:
        stream.feed(part)
        while piece := stream.read(size):
            assert len(piece) <= size
            pieces.append(piece)
    stream.end()
    return b"".join(pieces)


@pytest.mark.rule(178)
@pytest.mark.parametrize("size", [1000, 70_000, 10**8])
def test_a_frame_is_decoded_in_pieces_of_at_most_the_size_asked_for(size: int) -> None:
    assert decode(frame(TEXT), size=size) == TEXT


@pytest.mark.parametrize("step", [1, 7, 50_000])
def test_input_may_be_split_anywhere(step: int) -> None:
    data = TEXT if step > 1000 else TEXT[-500:]
    sent = frame(data) + skippable(b"x" * 10) + frame(data)
    assert decode(*(sent[start : start + step] for start in range(0, len(sent), step))) == data * 2


def test_several_frames_are_joined_and_skippable_ones_are_skipped() -> None:
    assert decode(skippable(b"") + frame(b"a") + frame(b"") + skippable(b"x" * 200_000) + frame(b"b")) == b"ab"


def test_no_input_is_no_output() -> None:
    assert decode() == decode(b"") == b""


def test_a_frame_of_a_stream_with_a_window_of_8_mib_is_decoded() -> None:
    assert decode(frame(TEXT * 4, window_log=23)) == TEXT * 4


def test_a_frame_of_a_stream_with_a_larger_window_is_refused() -> None:
    with pytest.raises(BadRequest, match="windows of at most 8 MiB"):
        decode(frame(TEXT, window_log=24))


@pytest.mark.parametrize(
    "sent",
    [
        b"{}",
        b"\x1f\x8b\x08\x00",
        b"not zstd at all",
        frame(b"abc") + b"rest",
        frame(b"abc")[:4] + b"\xff" * 20,
        frame(b"abc" * 100)[:-1] + b"!",
    ],
)
def test_what_is_no_zstd_is_refused(sent: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^the zstd body is in(valid|complete); "):
        decode(sent)


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_frame_that_ends_early_is_refused(cut: int) -> None:
    with pytest.raises(BadRequest, match="incomplete; send all"):
        decode(frame(TEXT)[:-cut])
    with pytest.raises(BadRequest, match="incomplete; send all"):
        decode(frame(b"a") + frame(TEXT)[:cut])


def test_any_damage_is_refused_or_decoded_but_never_another_error() -> None:
    rng, sent = random.Random(2), bytearray(frame(b'{"model":"x"}' * 50))
    for _ in range(2000):
        damaged = sent.copy()
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(BadRequest):
            decode(bytes(damaged))


def test_too_many_frames_are_refused() -> None:
    assert decode(frame(b"a") * MAX_FRAMES) == b"a" * MAX_FRAMES
    for tiny in (frame(b""), skippable(b"")):
        with pytest.raises(BadRequest, match="more than 1024 frames; send fewer"):
            decode(tiny * (MAX_FRAMES + 1))

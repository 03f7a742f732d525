"""Frames give the texts that the decoder would give, or None."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import delta, event
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import is_whole, payloads
from vllama_pool.router.protocol.vllm.text_frame import TextFrame, frame_of


def chat(text: str) -> bytes:
    return event_of({"delta": {"content": text}, "logprobs": None, "finish_reason": None, "token_ids": None})


def completion(text: str) -> bytes:
    return event_of({"text": text, "stop_reason": None})


def event_of(choice: dict[str, object]) -> bytes:
    fields = {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, **choice}]}
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def frame(data: bytes) -> TextFrame:
    found = frame_of(data[6:-2])
    assert found is not None
    return found


@pytest.mark.parametrize("part", [chat, completion])
@given(st.text(min_size=1).filter(str.isascii), st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_texts_of_a_read_are_those_of_its_events(part: object, first: str, texts: list[str]) -> None:
    assert callable(part)
    data = b"".join(part(text) for text in texts)
    assert frame(part("a")).texts(data) == texts
    if found := frame_of(part(first)[6:-2]):
        assert found.texts(data) == texts


PIECES = st.sampled_from([chat("a"), chat("b\\"), chat('"'), chat("a")[:-2], chat("a")[6:], b"x", b"\n", b"\r", b'","'])


@given(st.lists(PIECES, max_size=5), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(list(b'",\\ \n\r]x')))))
def test_other_data_has_no_texts_unless_the_decoder_finds_the_same(
    pieces: list[bytes], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(b"".join(pieces))
    for place, byte in changes:
        if place < len(data):
            data[place] = byte
    texts = frame(chat("z")).texts(bytes(data))
    if texts is not None:
        assert is_whole(bytes(data))
        events = [api.decode_event(payload) for payload in payloads(bytes(data))]
        assert events == [api.VllmEvent([api.VllmChoice(delta=api.VllmDelta(text))]) for text in texts]


@pytest.mark.parametrize(
    "data",
    [
        *(chat(""), chat("a") + chat(""), chat("a") + delta("stop"), chat("a") + b"data: [DONE]\n\n", completion("a")),
        *(b"", b"data: \n\n", chat("a")[:-1], chat("a") + chat("b").replace(b'"b"', b'"b","c"')),
        chat("a").replace(b'"a"', b'"\xff"'),
        chat("a").replace(b'"a"', b'"a"\n'),
    ],
)
def test_a_read_with_anything_else_has_no_texts(data: bytes) -> None:
    assert frame(chat("z")).texts(data) is None


@pytest.mark.parametrize(
    "data",
    [
        *(chat(""), delta(role="assistant", content=""), delta(reasoning="x"), delta("stop", content="x")),
        *(event(choices=[]), event(choices=[{"delta": {"content": "x"}, "token_ids": [1]}])),
        event(choices=[{"delta": {"content": "x"}}], usage={"prompt_tokens": 1}),
        event(choices=[{"delta": {"content": "x"}}, {"delta": {}}]),
        *(chat("é").replace("é".encode(), b"\\u00e9"), b"data: [DONE]\n\n"),
    ],
)
def test_events_with_more_than_a_text_have_no_frame(data: bytes) -> None:
    assert frame_of(data[6:-2]) is None


@pytest.mark.parametrize("text", [":", ",", "content", "chatcmpl-1", "m", "index", "text"])
def test_a_text_that_occurs_elsewhere_in_the_event_makes_no_wrong_frame(text: str) -> None:
    found = frame_of(chat(text)[6:-2])
    assert found is None or found.texts(chat("x") + chat(text)) == ["x", text]


@pytest.mark.parametrize("part", [chat, completion])
@given(texts=st.lists(st.text().map(lambda text: text.replace('"', "'")), max_size=5))
def test_events_in_a_frame_are_counted_unread(part: object, texts: list[str]) -> None:
    assert callable(part)
    assert frame(part("a")).count(b"".join(part(text) for text in texts)) == len(texts)


@pytest.mark.parametrize(
    "other",
    [
        delta(tool_calls=[]),
        chat("a")[:-2],
        chat("a")[:-1],
        chat("a")[6:],
        b"data: [DONE]\n\n",
        b": ping\n\n",
        chat("a").replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        chat("a").replace(b'"a"', b"null"),
        chat('a "quote"'),
        b"\n\n",
    ],
)
def test_data_with_anything_else_counts_as_none(other: bytes) -> None:
    known = frame(chat("a"))
    assert known.count(other) == known.count(chat("a") + other) == known.count(other + chat("a")) == 0

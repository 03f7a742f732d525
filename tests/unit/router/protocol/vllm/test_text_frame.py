"""Frames give the texts that the decoder would give, or None."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import delta, event
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import is_whole, payloads
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame, TextFrame, frame_of, ids_frame_of, ids_of


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
        *(chat("a") + delta("stop"), chat("a") + b"data: [DONE]\n\n", completion("a")),
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


def chat_ids(text: str | None, ids: list[int]) -> bytes:
    held = {} if text is None else {"content": text}
    return event_of({"delta": held, "logprobs": None, "finish_reason": None, "token_ids": ids})


def completion_ids(text: str | None, ids: list[int]) -> bytes:
    return event_of({"text": text or "", "stop_reason": None, "prompt_token_ids": None, "token_ids": ids})


def ids_frame(data: bytes) -> IdsFrame:
    found = ids_frame_of(data[6:-2])
    assert found is not None
    return found


IDS = st.lists(st.integers(0, 200_000), min_size=1, max_size=4)


@pytest.mark.parametrize("part", [chat_ids, completion_ids])
@given(tokens=st.lists(st.tuples(st.text(), IDS), min_size=1, max_size=5))
def test_texts_and_ids_of_a_read_are_those_of_its_events(
    part: Callable[[str | None, list[int]], bytes], tokens: list[tuple[str, list[int]]]
) -> None:
    data = b"".join(part(text, ids) for text, ids in tokens)
    assert ids_frame(part("a", [1])).texts(data) == [text for text, _ in tokens]
    assert ids_of([data]) == [each for _, ids in tokens for each in ids]


@given(tokens=st.lists(st.tuples(st.text(), IDS), min_size=1, max_size=5))
def test_the_ids_of_a_read_are_hidden(tokens: list[tuple[str, list[int]]]) -> None:
    hidden = ids_frame(chat_ids("a", [1])).hide_ids(b"".join(chat_ids(text, ids) for text, ids in tokens))
    assert hidden == b"".join(chat(text) for text, _ in tokens)


def test_a_delta_without_content_is_an_empty_text() -> None:
    known = ids_frame(chat_ids("a", [1]))
    assert known.texts(chat_ids(None, [7, 8])) == [""]
    assert known.hide_ids(chat_ids(None, [7, 8])) is None
    without_ids = event_of({"delta": {}, "logprobs": None, "finish_reason": None, "token_ids": None})
    assert known.hide_ids_without_text(chat_ids(None, [7, 8])) == without_ids
    for other in (chat_ids("a", [7]), chat_ids(None, [7])[:-1], chat_ids(None, [7]) * 2, without_ids, b""):
        assert known.hide_ids_without_text(other) is None


def test_the_frame_of_hidden_events_is_known_from_those_with_ids() -> None:
    known = ids_frame(chat_ids("a", [1]))
    assert known.hidden.count(known.hide_ids(chat_ids("b", [7]) * 3) or b"") == 3


@pytest.mark.parametrize(
    "other",
    [
        *(chat("a"), completion_ids("a", [1]), delta("stop"), b"data: [DONE]\n\n", b": ping\n\n", b"\n\n"),
        *(chat_ids("a", [1])[:-1], chat_ids("a", [1])[6:]),
        chat_ids("a", [1]).replace(b"[1]", b"[1.5]"),
        chat_ids("a", [1]).replace(b"[1]", b"[1],[2]"),
        chat_ids("a", [1]).replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
    ],
)
def test_data_with_anything_else_has_neither_texts_nor_hidden_ids(other: bytes) -> None:
    plain, known = chat_ids("b", [2]), ids_frame(chat_ids("a", [1]))
    for data in (other, plain + other, other + plain, plain + other + plain):
        if data != plain:
            assert known.hide_ids(data) is None
            assert known.texts(data) is None


@pytest.mark.parametrize(
    "data",
    [
        *(chat("a"), chat_ids("", [1]), chat_ids(None, [1]), chat_ids("a", [])),
        event_of({"delta": {"content": "a"}, "token_ids": [1], "prompt_token_ids": [1]}),
        event_of({"delta": {"content": "a"}, "token_ids": [1], "finish_reason": "stop"}),
        event_of({"delta": {"content": "a", "reasoning": "b"}, "token_ids": [1]}),
    ],
)
def test_events_with_more_than_text_and_ids_have_no_frame(data: bytes) -> None:
    assert ids_frame_of(data[6:-2]) is None


def test_malformed_ids_do_no_harm() -> None:
    data = chat_ids("a", [1]).replace(b"[1]", b"[007,,8," + b"9" * 30 + b"]")
    assert ids_frame(chat_ids("a", [1])).texts(data) == ["a"]
    assert ids_of([data])[:2] == [7, 8]

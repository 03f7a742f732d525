from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm import sse
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads

STREAM = (
    b": keep-alive\n\n"
    b'data: {"a":1}\n\n'
    b'event: x\r\ndata: {"b":"\xf0\x9f\xa6\x99"}\r\n\r\n'
    b"\n"
    b'data:{"c":1}\n\n'
    b"data: one\ndata: two\n\n"
    b"id: 7\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b'{"b":"\xf0\x9f\xa6\x99"}', b'{"c":1}', b"one\ntwo", b"[DONE]"]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    splitter = EventSplitter()
    places = [0, *sorted(cuts), len(data)]
    pieces = [splitter.feed(data[start:end]) for start, end in itertools.pairwise(places)]
    return [*itertools.chain(*map(payloads, pieces)), *payloads(splitter.rest())]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_bytes_are_split(cuts: list[int]) -> None:
    assert split(STREAM, cuts) == EVENTS


def test_events_may_arrive_byte_by_byte() -> None:
    assert split(STREAM, list(range(len(STREAM)))) == EVENTS


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_lf_crlf_and_cr_end_lines(line_end: bytes) -> None:
    data = b"data: 1" + line_end * 2 + b": c" + line_end + b"data: 2" + line_end * 2
    for cut in range(len(data)):
        assert split(data, [cut]) == [b"1", b"2"]


def test_an_event_without_a_closing_line_is_returned_at_the_end() -> None:
    assert split(b"data: 1\n\ndata: [DONE]", []) == [b"1", b"[DONE]"]


def test_an_event_without_end_is_refused() -> None:
    splitter = EventSplitter()
    chunk = b"x" * (sse.MAX_EVENT // 2)
    splitter.feed(chunk)
    splitter.feed(chunk)
    with pytest.raises(EventTooLong):
        splitter.feed(b"x")


def test_an_event_in_many_reads_is_joined_in_linear_time() -> None:
    """A prompt's token ids are one event of megabytes."""
    event = b"data: " + b"1234567," * 1_000_000
    pieces = [event[start : start + 65536] for start in range(0, len(event), 65536)]
    splitter = EventSplitter()
    began = time.process_time()
    for _ in range(3):
        assert not any(splitter.feed(piece) for piece in pieces)
        assert payloads(splitter.feed(b"\n\n")) == [event[6:]]
    assert time.process_time() - began < 0.6


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_line_end_split_between_reads_is_one_line_end(line_end: bytes) -> None:
    splitter = EventSplitter()
    parts = [b"data: a", line_end, b"data: b", line_end, b"", line_end, b"data: c"]
    assert [event for part in parts for event in payloads(splitter.feed(part))] == [b"a\nb"]
    assert payloads(splitter.rest()) == [b"c"]


PARTS = st.lists(
    st.sampled_from([b"data: ", b"data:", b"{}", b"x", b"\n", b"\n\n", b"\r\n", b"\r", b": c", b"event: x", b"[DONE]"]),
    max_size=12,
).map(b"".join)


@given(PARTS | PARTS.map(lambda data: b"data: " + data + b"\n\n"))
def test_whole_events_need_no_splitter(data: bytes) -> None:
    if is_whole(data):
        splitter = EventSplitter()
        assert splitter.feed(data) == data
        assert not splitter.within_event


@given(PARTS.filter(lambda data: b"\r" not in data).map(lambda data: data + b"\n\n"))
def test_events_of_one_line_are_read_as_any_others(data: bytes) -> None:
    lines = [block.split(b"\n") for block in data.split(b"\n\n")]
    texts = [[line[5:].removeprefix(b" ") for line in block if line.startswith(b"data:")] for block in lines]
    assert payloads(data) == [joined for block in texts if (joined := b"\n".join(block))]


@pytest.mark.parametrize("data", [b"", b"data: {}\n", b"data: {}\r\n\r\n", b"data: {}\n\ndata: {}"])
def test_other_bytes_are_left_to_the_splitter(data: bytes) -> None:
    assert not is_whole(data)


def test_events_of_one_line_are_split() -> None:
    assert payloads(b'data: {"a":1}\n\n') == [b'{"a":1}']
    assert payloads(b'data: {"a":1}\n\ndata: {}\n\ndata: [DONE]\n\n') == [b'{"a":1}', b"{}", b"[DONE]"]

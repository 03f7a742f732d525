"""Streams whose ids the client must not see differ in nothing from those without ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.openai.hiding_stream import HidingStream
from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm.sse import MAX_EVENT
from vllama_pool.router.protocol.vllm.token_log import MANY, Progress

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"
PROMPT = [1, 2, 3]


def chunk(choice: dict[str, Any] | None, **fields: Any) -> bytes:
    choices = [] if choice is None else [{"index": 0, "logprobs": None, "finish_reason": None, **choice}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "served", "choices": choices}
    encoded = json.dumps({**head, **fields}, separators=(",", ":"), ensure_ascii=False)
    return b"data: %b\n\n" % encoded.encode()


def chat(text: str | None, ids: list[int] | None, **fields: Any) -> bytes:
    return chunk({"delta": {} if text is None else {"content": text}, **fields, "token_ids": ids})


def completion(text: str | None, ids: list[int] | None, **fields: Any) -> bytes:
    return chunk({"text": text or "", **fields, "token_ids": ids})


def first(ids: list[int] | None) -> bytes:
    return chunk({"delta": {"role": "assistant", "content": ""}, "token_ids": None}, prompt_token_ids=ids)


def finish(ids: list[int] | None) -> bytes:
    return chat("", ids, finish_reason="stop")


END = chunk(None, usage=USAGE) + DONE


def translators(name: str) -> tuple[HidingStream, ChunkStream]:
    return HidingStream(name, 1, True), ChunkStream(name, 1, True)


def progress(stream: HidingStream) -> Progress:
    found = stream.log.progress()
    assert found is not None
    return found


def long_answer() -> Iterator[tuple[str | None, list[int]]]:
    """Yield tokens with everything that may leave the fast path."""
    for place in range(3 * MANY):
        yield f" é{place} \\ \n", [place]
        if place % 17 == 5:
            yield 'a "quote" and "token_ids":[7]', [place, 200_000]
        if place % 19 == 6:
            yield None, [place]
        if place % 23 == 7:
            yield "", [place, 7, 8]


@pytest.mark.parametrize("name", ["served", "Mine"])
@pytest.mark.parametrize("part", [chat, completion])
@pytest.mark.parametrize("burst", [1, 3])
def test_a_long_answer_is_seen_without_ids_and_known_with_them(name: str, part: Any, burst: int) -> None:
    tokens = list(long_answer())
    stream, plain = translators(name)
    reads = [[(first(PROMPT), first(None))]]
    reads += [
        [(part(text, ids), part(text, None)) for text, ids in tokens[at : at + burst]]
        for at in range(0, len(tokens), burst)
    ]
    reads.append([(finish([5]), finish(None))])
    for read in reads:
        with_ids, without = (b"".join(each) for each in zip(*read, strict=True))
        assert stream.feed(with_ids) == plain.feed(without)
        assert stream.usage == plain.usage
    assert progress(stream).prompt == (1, 2, 3)
    assert progress(stream).ids == (*(each for _, ids in tokens for each in ids), 5)
    assert progress(stream).text == "".join(text or "" for text, _ in tokens)
    assert stream.feed(END) + stream.finish() == plain.feed(END) + plain.finish()
    assert (stream.done, stream.failure, stream.usage) == (True, None, Usage(9, 3, "stop"))


def test_a_last_event_without_its_blank_line_is_seen_without_ids() -> None:
    stream, plain = translators("served")
    for text in ("a", "b", "c"):
        assert stream.feed(chat(text, [9])) == plain.feed(chat(text, None))
    out = stream.feed(finish([5])[:-2]) + stream.finish()
    assert out == plain.feed(finish(None)[:-2]) + plain.finish()
    assert b'token_ids":[' not in out
    assert (stream.done, plain.done) == (True, True)


@pytest.mark.parametrize("count", [1, 5, 6, 20, 20 + MANY])
def test_all_tokens_are_known_at_any_moment(count: int) -> None:
    stream = HidingStream("served", 1, True)
    stream.feed(first(PROMPT))
    for place in range(count):
        stream.feed(chat(f"{place} ", [place]))
    assert progress(stream).ids == tuple(range(count))
    assert progress(stream).text == "".join(f"{place} " for place in range(count))


@given(
    st.lists(st.tuples(st.none() | st.text(), st.lists(st.integers(0, 200_000), min_size=1, max_size=3)), max_size=60),
    st.sampled_from(["served", "Mine"]),
    st.data(),
)
def test_a_stream_may_be_split_anywhere(
    tokens: list[tuple[str | None, list[int]]], name: str, data: st.DataObject
) -> None:
    tokens = [("a", [9])] * 6 + tokens
    stream, plain = translators(name)
    whole = first(PROMPT) + b"".join(chat(*token) for token in tokens) + finish([5]) + END
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=60)))
    out = b"".join(stream.feed(whole[begin:end]) for begin, end in pairwise([0, *cuts, len(whole)])) + stream.finish()
    bare = first(None) + b"".join(chat(text, None) for text, _ in tokens) + finish(None) + END
    assert out == plain.feed(bare) + plain.finish()
    assert progress(stream).ids == (*(each for _, ids in tokens for each in ids), 5)


PIECES = st.sampled_from(
    [chat("a", [1]), chat('b"', [2, 3]), chat(None, [4]), chat("a", None), finish([1]), b"\n", b"x"],
)


@given(
    st.lists(PIECES, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 700), st.sampled_from(list(b'",\\ \n[]x1'))), max_size=3),
)
def test_a_damaged_read_means_the_same_with_and_without_a_frame(
    pieces: list[bytes], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(b"".join(pieces))
    for place, byte in changes:
        if place < len(data):
            data[place] = byte
    long, short = HidingStream("served", 1, True), HidingStream("served", 1, True)
    for stream, count in ((long, 20), (short, 1)):
        for _ in range(count):
            stream.feed(chat("a", [1]))
    assert long.feed(bytes(data)) == short.feed(bytes(data))
    assert (long.failure, long.done) == (short.failure, short.done)


def test_thoughts_are_hidden_too_and_have_both_spellings() -> None:
    stream, plain = translators("Mine")
    for place in range(40):
        with_ids, without = (chunk({"delta": {"reasoning": f"r{place}"}, "token_ids": ids}) for ids in ([place], None))
        assert stream.feed(with_ids) == plain.feed(without)
    for place in range(40):
        assert stream.feed(chat(f"t{place}", [place])) == plain.feed(chat(f"t{place}", None))


def test_an_error_after_a_long_stream_is_a_failure_and_nothing_more_passes() -> None:
    stream = HidingStream("served", 1, True)
    for _ in range(20):
        stream.feed(chat("a", [1]))
    error = b'data: {"error":{"message":"gone","code":500}}\n\n'
    assert stream.feed(chat("a", [1]) + error) == chat("a", None)
    assert stream.failure == StreamFailure(500, "gone")
    assert stream.feed(chat("a", [1])) == b""
    assert stream.fail("gone").startswith(b'data: {"error":')


def test_nothing_passes_after_an_error_of_the_routers() -> None:
    stream = HidingStream("served", 1, True)
    for _ in range(20):
        stream.feed(chat("a", [1]))
    assert stream.fail("out of time").startswith(b'data: {"error":')
    assert stream.feed(chat("a", [1])) == b""


@pytest.mark.parametrize("half", [b"", chat("lost", [5])[:-9]])
def test_another_workers_events_follow_and_are_not_logged(half: bytes) -> None:
    stream, plain = translators("Mine")
    read = first(PROMPT) + chat("a", [1]) * 20
    assert stream.feed(read) + stream.feed(half) == plain.feed(first(None) + chat("a", None) * 20)
    stream.restart(0)
    assert stream.feed(chat("b", None) * 3) == plain.feed(chat("b", None) * 3)
    for _ in range(40):
        assert stream.feed(chat("c", None)) == plain.feed(chat("c", None))
    assert stream.feed(finish(None) + END) == plain.feed(finish(None) + END)
    assert stream.done
    assert progress(stream).ids == (1,) * 20


def test_an_endless_event_is_a_failure() -> None:
    stream = HidingStream("served", 1, True)
    stream.feed(chat("a", [1]) * 20)
    assert stream.feed(b"data: " + b"x" * (MAX_EVENT + 1)) == b""
    assert stream.failure is not None
    assert stream.failure.status == 502
    assert stream.log.progress() is None


def test_every_event_of_another_form_gets_the_clients_name() -> None:
    stream = HidingStream("Mine", 1, True)
    fields = {"choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": [1]}], "model": "served"}
    read = b"data: %b\n\n" % json.dumps(fields, separators=(",", ":")).encode()
    for _ in range(30):
        event = json.loads(stream.feed(read)[6:])
        assert (event["model"], event["choices"][0]["token_ids"]) == ("Mine", None)

"""The events of an answer, kept for a continuation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm import token_log
from vllama_pool.router.protocol.vllm.text_frame import IdsFrame, ids_frame_of
from vllama_pool.router.protocol.vllm.token_log import TokenLog, without_ids

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(text: str, ids: list[int] | None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, "token_ids": ids}
    return b"data: %b\n\n" % msgspec.json.encode({**HEAD, "choices": [choice | more.pop("choice", {})], **more})


FIRST = event("", None, prompt_token_ids=[1, 2, 3])
EVENTS = [FIRST, event("a", [10]), event('"token_ids":[7]', [11, 12]), event("", [13]), event("é", [14])]


def frame() -> IdsFrame:
    found = ids_frame_of(event("a", [1])[6:-2])
    assert found is not None
    return found


@pytest.mark.parametrize("size", [1, 7, 150, 10_000])
def test_tokens_and_text_are_known_whatever_the_reads(size: int) -> None:
    log, stream = TokenLog(), b"".join(EVENTS)
    out = b"".join(log.feed(stream[start : start + size]) for start in range(0, len(stream), size))
    assert out == stream
    progress = log.progress()
    assert progress is not None
    assert progress.prompt == (1, 2, 3)
    assert progress.ids == (10, 11, 12, 13, 14)
    assert progress.text == 'a"token_ids":[7]é'
    assert progress.is_chat


@pytest.mark.parametrize("per_read", [1, 3])
def test_a_long_answer_is_packed_and_known_whole(per_read: int) -> None:
    log = TokenLog()
    reads = [event(f"é{place} \\ \0 \n", [place, 7]) for place in range(3 * token_log.MANY)]
    reads = [FIRST, *(b"".join(reads[at : at + per_read]) for at in range(0, len(reads), per_read))]
    assert [log.feed(read) for read in reads] == reads
    progress = log.progress()
    assert progress is not None
    assert progress.ids == tuple(each for place in range(3 * token_log.MANY) for each in (place, 7))
    assert progress.text == "".join(f"é{place} \\ \0 \n" for place in range(3 * token_log.MANY))


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(0, 200_000), max_size=3)), max_size=200), st.data())
def test_tokens_survive_any_reads(tokens: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    stream = FIRST + b"".join(event(text, ids) for text, ids in tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=100)))
    log = TokenLog()
    for begin, end in pairwise([0, *cuts, len(stream)]):
        log.feed(stream[begin:end])
    progress = log.progress()
    assert progress is not None
    assert progress.ids == tuple(each for _, ids in tokens for each in ids)
    assert progress.text == "".join(text for text, _ in tokens)


@pytest.mark.parametrize("odd", [b"", b"\0"])
def test_reads_and_the_insides_of_plain_events_keep_their_order(odd: bytes) -> None:
    log, known = TokenLog(), frame()
    log.frame = known
    log.feed(FIRST)
    for place in range(10):
        log.tokens += [event(f"{place}{sign}", [place])[known.inside] for sign in "ab"]
        log.tokens[-1] = log.tokens[-1].replace(b"b", b"b" + odd)
        if place % 2:
            log.pack_tokens()
            log.feed(event('"', [100 + place]))
    progress = log.progress()
    if odd:  # never in JSON
        assert progress is None
        return
    assert progress is not None
    assert progress.ids == tuple(each for place in range(10) for each in ([place] * 2 + [100 + place] * (place % 2)))
    assert progress.text == "".join(f"{place}a{place}b" + '"' * (place % 2) for place in range(10))


def test_many_tokens_are_forgotten_as_many_reads_are() -> None:
    log, known = TokenLog(), frame()
    log.frame = known
    log.feed(FIRST)
    for _ in range(token_log.MAX_LOG // 10_000 + 1):
        log.tokens.append(event("x" * 10_000, [10])[known.inside])
        log.pack_tokens()
    assert log.overflowed
    assert log.progress() is None


def test_half_an_event_at_the_end_counts_for_nothing() -> None:
    log = TokenLog()
    log.feed(b"".join(EVENTS))
    log.feed(event("lost", [15])[:-4])
    progress = log.progress()
    assert progress is not None
    assert progress.ids[-1] == 14
    assert "lost" not in progress.text


def test_a_finish_is_noticed() -> None:
    log = TokenLog()
    log.feed(FIRST + event("a", [10], choice={"finish_reason": "length"}))
    progress = log.progress()
    assert progress is not None
    assert progress.finish == "length"


@pytest.mark.parametrize(
    "events",
    [
        [event("a", [10])],
        [FIRST, event("a", None)],
        [FIRST, event("a", [10], choice={"index": 1})],
        [FIRST, b"data: {\n\n"],
        [FIRST, event("", [10], choice={"delta": {"tool_calls": [{"index": 0}]}})],
    ],
    ids=["no prompt", "no ids", "several choices", "not JSON", "a tool call"],
)
def test_without_all_tokens_there_is_no_progress(events: list[bytes]) -> None:
    log = TokenLog()
    for each in events:
        log.feed(each)
    assert log.progress() is None


def test_a_very_long_answer_is_forgotten_and_still_passes() -> None:
    log = TokenLog()
    log.feed(FIRST)
    many = event("x" * 10_000, [10])
    for _ in range(token_log.MAX_LOG // 10_000 + token_log.MANY):
        assert log.feed(many) == many
    assert log.overflowed
    assert log.progress() is None


@pytest.mark.parametrize("spelling", [b'"token_ids": [10, 11]', b'"token_ids" :[10,11]', b'"token_ids":[10,11]'])
def test_ids_are_removed_however_they_are_spelled(spelling: bytes) -> None:
    read = FIRST + event("a", [10, 11]).replace(b'"token_ids":[10,11]', spelling)
    out = without_ids(read + event("b", [12]))
    assert out == b"".join(event(text, None) for text in ("", "a", "b")).replace(
        b"]}", b'],"prompt_token_ids":null}', 1
    )


def test_half_a_list_of_ids_stays_as_it_is() -> None:
    read = b'data: {"token_ids":[1\n\n'
    assert without_ids(read) == read

"""The events of an answer, kept for a continuation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm import token_log
from vllama_pool.router.protocol.vllm.token_log import HidingLog, TokenLog

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(text: str, ids: list[int] | None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, "token_ids": ids}
    return b"data: %b\n\n" % msgspec.json.encode({**HEAD, "choices": [choice | more.pop("choice", {})], **more})


FIRST = event("", None, prompt_token_ids=[1, 2, 3])
EVENTS = [FIRST, event("a", [10]), event('"token_ids":[7]', [11, 12]), event("", [13]), event("é", [14])]


@pytest.mark.parametrize("size", [1, 7, 150, 10_000])
def test_tokens_and_text_are_known_whatever_the_reads(size: int) -> None:
    log, stream = HidingLog(), b"".join(EVENTS)
    out = b"".join(log.feed(stream[start : start + size]) for start in range(0, len(stream), size))
    progress = log.progress()
    assert progress is not None
    assert progress.prompt == (1, 2, 3)
    assert progress.ids == (10, 11, 12, 13, 14)
    assert progress.text == 'a"token_ids":[7]é'
    assert progress.is_chat
    expected = [event("", None, prompt_token_ids=None)]
    expected += [event(text, None) for text in ("a", '"token_ids":[7]', "", "é")]
    assert out == b"".join(expected)


def test_events_pass_unchanged_if_the_client_sees_the_ids() -> None:
    log = TokenLog()
    assert b"".join(map(log.feed, EVENTS)) == b"".join(EVENTS)
    progress = log.progress()
    assert progress is not None
    assert progress.ids == (10, 11, 12, 13, 14)


@pytest.mark.parametrize("kind", [TokenLog, HidingLog])
@pytest.mark.parametrize("per_read", [1, 3])
def test_a_long_answer_is_packed_and_known_whole(kind: type[TokenLog], per_read: int) -> None:
    log = kind()
    reads = [event(f"é{place} \\ \0 \n", [place, 7]) for place in range(3 * token_log.MANY)]
    reads = [FIRST, *(b"".join(reads[at : at + per_read]) for at in range(0, len(reads), per_read))]
    out = [log.feed(read) for read in reads]
    if kind is HidingLog:
        assert out[1:] == [
            b"".join(event(f"é{place} \\ \0 \n", None) for place in range(at, at + per_read))
            for at in range(0, 3 * token_log.MANY, per_read)
        ]
    else:
        assert out == reads
    progress = log.progress()
    assert progress is not None
    assert progress.ids == tuple(each for place in range(3 * token_log.MANY) for each in (place, 7))
    assert progress.text == "".join(f"é{place} \\ \0 \n" for place in range(3 * token_log.MANY))


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(0, 200_000), max_size=3)), max_size=200), st.data())
def test_tokens_survive_any_reads(tokens: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    stream = FIRST + b"".join(event(text, ids) for text, ids in tokens)
    plain = event("", None, prompt_token_ids=None) + b"".join(event(text, None) for text, _ in tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=100)))
    log = HidingLog()
    out = [log.feed(stream[begin:end]) for begin, end in pairwise([0, *cuts, len(stream)])]
    assert b"".join(out) == plain
    progress = log.progress()
    assert progress is not None
    assert progress.ids == tuple(each for _, ids in tokens for each in ids)
    assert progress.text == "".join(text for text, _ in tokens)


def test_half_an_event_at_the_end_counts_for_nothing() -> None:
    log = HidingLog()
    log.feed(b"".join(EVENTS))
    assert log.feed(event("lost", [15])[:-4]) == b""
    progress = log.progress()
    assert progress is not None
    assert progress.ids[-1] == 14
    assert "lost" not in progress.text


def test_a_finish_is_noticed() -> None:
    log = HidingLog()
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
    log = HidingLog()
    for each in events:
        log.feed(each)
    assert log.progress() is None


def test_a_very_long_answer_is_forgotten_and_still_passes() -> None:
    log = HidingLog()
    log.feed(FIRST)
    many = event("x" * 10_000, [10])
    for _ in range(token_log.MAX_LOG // 10_000 + token_log.MANY):
        assert log.feed(many) == event("x" * 10_000, None)
    assert log.overflowed
    assert log.progress() is None


@pytest.mark.parametrize("spelling", [b'"token_ids": [10, 11]', b'"token_ids" :[10,11]', b'"token_ids":[10,11]'])
def test_ids_are_removed_however_they_are_spelled(spelling: bytes) -> None:
    read = FIRST + event("a", [10, 11]).replace(b'"token_ids":[10,11]', spelling)
    out = HidingLog().feed(read + event("b", [12]))
    assert out == b"".join(event(text, None) for text in ("", "a", "b")).replace(
        b"]}", b'],"prompt_token_ids":null}', 1
    )


def test_half_a_list_of_ids_stays_as_it_is() -> None:
    read = b'data: {"token_ids":[1\n\n'
    assert HidingLog().feed(read) == read

"""The events of a continuation, as those of the answer that it continues."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllama_pool.router.protocol.vllm.seam import Seam

HEAD = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}'


def second(text: str, ids: list[int], finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish, "stop_reason": None, "token_ids": ids}
    head = {"id": "cmpl-2", "object": "text_completion", "created": 9, "model": "m"}
    return b"data: %b\n\n" % msgspec.json.encode({**head, "choices": [choice]})


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return b"data: %b\n\n" % msgspec.json.encode({"choices": [], "usage": counts})


def seam(text: str = "one two", sent: str = "one", **more: Any) -> Seam:
    return Seam(HEAD, **{"chat": True, "prompt_tokens": 5, "tokens": 2, "text": text, "sent": sent} | more)


def read(data: bytes) -> tuple[str, str | None, dict[str, int] | None, bool]:
    """Return text, finish, usage, and whether the stream ended. All events have the first stream's head."""
    text, finish, counts, done = "", None, None, False
    for payload in data.replace(b"data: ", b"").split(b"\n\n")[:-1]:
        if payload == b"[DONE]":
            done = True
            continue
        event = msgspec.json.decode(payload)
        assert (event["id"], event["created"], event["object"]) == ("chatcmpl-1", 1, "chat.completion.chunk")
        counts = event.get("usage", counts)
        for choice in event["choices"]:
            text += choice["delta"]["content"]
            finish = choice["finish_reason"] or finish
    return text, finish, counts, done


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_held_back_text_comes_first_and_counts_are_those_of_both_halves(size: int) -> None:
    stream = second(" three", [3]) + second(" four", [4], "length") + usage(7, 2) + b"data: [DONE]\n\n"
    one = seam()
    out = b"".join(one.feed(stream[start : start + size]) for start in range(0, len(stream), size))
    counts = {"prompt_tokens": 5, "total_tokens": 9, "completion_tokens": 4}
    assert read(out) == (" two three four", "length", counts, True)
    assert not one.cut_off


@pytest.mark.parametrize(("keeps_stop", "end"), [(False, " "), (True, " two th")])
def test_a_stop_string_across_the_seam_ends_the_answer_where_vllm_would(keeps_stop: bool, end: str) -> None:
    one = seam(stops=("two th",), keeps_stop=keeps_stop)
    text, finish, counts, done = read(one.feed(second(" t", [3]) + second("hr", [4]) + second("ee", [5])))
    assert text == end
    assert (finish, done) == ("stop", True)
    assert counts is not None
    assert counts["completion_tokens"] == 4, "the token that ends the stop string is the last"
    assert one.cut_off
    assert one.feed(second("!", [6])) == b""


def test_of_two_stop_strings_in_one_event_the_first_to_end_counts() -> None:
    one = seam(text="", sent="", stops=("cde", "bc"))
    assert read(one.feed(second("abcdef", [3])))[:2] == ("a", "stop")


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    one = seam(text="one", sent="one", stops=("STOP",))
    assert read(one.feed(second(" ST", [3])))[0] == ""
    assert read(one.feed(second("AY", [4])))[0] == " S"
    assert read(one.feed(second("", [5], "stop")))[:2] == ("TAY", "stop")


def test_stop_strings_do_not_count_before_the_least_number_of_tokens() -> None:
    one = seam(text="", sent="", stops=("b",), min_tokens=3)
    assert read(one.feed(second("ab", [3])))[1] is None
    assert read(one.feed(second("cb", [4])))[1] == "stop"


def test_text_that_was_sent_and_is_generated_again_is_not_sent_twice() -> None:
    one = seam(text="on", sent="one")
    assert read(one.feed(second("e t", [3])))[0] == " t"


def test_another_text_than_the_one_sent_is_an_error() -> None:
    out = seam(text="on", sent="one").feed(second("ly", [3]))
    assert b'"error"' in out
    assert b"another text" in out


def test_an_error_event_passes() -> None:
    error = b'data: {"error":{"message":"m","type":"t","code":500}}\n\n'
    assert seam().feed(error) == error


def test_an_answer_without_room_for_more_tokens_ends_at_once() -> None:
    counts = {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}
    assert read(seam().close("length")) == (" two", "length", counts, True)


def test_ids_are_shown_to_a_translator_that_needs_them() -> None:
    assert b'"token_ids":[3]' in seam(shows_ids=True).feed(second("x", [3]))
    assert b'"token_ids":null' in seam().feed(second("x", [3]))

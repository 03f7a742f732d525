from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.operation import StreamFailure, Usage

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chunk(choices: list[dict[str, Any]], **fields: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "served", "choices": choices}
    return b"data: " + json.dumps({**head, **fields}, separators=(",", ":")).encode() + b"\n\n"


def text(content: str, index: int = 0) -> bytes:
    return chunk([{"index": index, "delta": {"content": content}, "logprobs": None, "finish_reason": None}])


def finish(reason: str = "stop", index: int = 0) -> bytes:
    return chunk([{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}])


ROLE = chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
USAGE_EVENT = chunk([], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def named(data: bytes) -> bytes:
    return data.replace(b'"model":"served"', b'"model":"Mine"')


def stream(include_usage: bool = False, choices: int = 1, name: str = "Mine") -> ChunkStream:
    return ChunkStream(name, choices, include_usage)


def test_events_pass_with_the_models_name_as_the_client_spelled_it() -> None:
    relayed = stream(include_usage=True)
    whole = ROLE + text("a") + text('"model":"served"') + finish() + USAGE_EVENT + DONE
    out = b"".join(relayed.feed(event + b"\n\n") for event in whole.split(b"\n\n")[:-1]) + relayed.finish()
    assert (
        out == named(ROLE) + named(text("a")) + named(text('"model":"served"')) + named(finish() + USAGE_EVENT) + DONE
    )
    assert (relayed.done, relayed.failure, relayed.usage) == (True, None, Usage(9, 3, "stop"))


def test_every_event_of_another_form_gets_the_clients_name() -> None:
    relayed = stream()
    fields = {"choices": [{"index": 0, "delta": {"content": "a"}}], "model": "served"}
    events = [json.dumps(fields).encode()] * 5 + [json.dumps(fields, separators=(",", ":")).encode()] * 30
    out = b"".join(relayed.feed(b"data: %b\n\n" % each) for each in events)
    assert out.count(b'"model":"Mine"') == 35
    assert b"served" not in out


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_stream_may_be_split_anywhere(size: int) -> None:
    relayed = stream()
    whole = ROLE + text("é") + text("b") * 20 + finish() + USAGE_EVENT + DONE
    parts = [relayed.feed(whole[start : start + size]) for start in range(0, len(whole), size)]
    assert b"".join(parts) + relayed.finish() == named(ROLE + text("é") + text("b") * 20 + finish()) + DONE


def test_the_usage_is_removed_for_a_client_that_did_not_ask_for_it() -> None:
    relayed = stream()
    assert relayed.feed(ROLE + text("a") + finish() + USAGE_EVENT + DONE) == named(ROLE + text("a") + finish()) + DONE
    assert relayed.usage == Usage(9, 3, "stop")


def test_an_answer_begins_with_its_first_content() -> None:
    relayed = stream()
    assert relayed.feed(ROLE) == named(ROLE)
    assert not relayed.ready
    relayed.feed(text("a"))
    assert relayed.ready


@pytest.mark.parametrize(
    "delta", [{"content": "a"}, {"reasoning": "a"}, {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}]
)
def test_text_reasoning_and_tool_calls_are_content(delta: dict[str, Any]) -> None:
    relayed = stream()
    relayed.feed(chunk([{"index": 0, "delta": delta, "finish_reason": None}]))
    assert relayed.begun


def test_reasoning_has_both_spellings_at_any_place_of_a_stream() -> None:
    relayed = stream(name="served")
    event = chunk([{"index": 0, "delta": {"reasoning": 'so "it" is'}, "finish_reason": None}])
    for _ in range(3):
        delta = json.loads(relayed.feed(event)[6:])["choices"][0]["delta"]
        assert delta == {"reasoning": 'so "it" is', "reasoning_content": 'so "it" is'}


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_event_is_a_failure_with_its_own_status(begun: bool) -> None:
    relayed = stream()
    relayed.feed(ROLE + (text("a") if begun else b""))
    error = b'data: {"error":{"message":"busy","type":"x","param":null,"code":503}}\n\n'
    assert relayed.feed(error + DONE) == b""
    assert (relayed.done, relayed.failure) == (False, StreamFailure(503, "busy"))
    assert json.loads(relayed.fail("busy")[6:]) == {
        "error": {"message": "busy", "type": "api_error", "param": None, "code": None}
    }
    assert relayed.fail("again") == relayed.finish() == b""


def test_a_request_that_vllm_gave_up_is_a_failure() -> None:
    relayed = stream()
    relayed.feed(ROLE + text("a") + finish("abort"))
    assert relayed.failure == StreamFailure(503, "the worker stopped the request")


@pytest.mark.parametrize("rest", [b"", DONE, text("b")[:-20], b"data: {]\n\n"])
def test_a_stream_that_ends_before_its_finish_ends_with_an_error_event(rest: bytes) -> None:
    relayed = stream()
    relayed.feed(ROLE + text("a"))
    out = relayed.feed(rest) + relayed.finish()
    assert not relayed.done
    assert out.startswith(b'data: {"error":')
    assert out.endswith(b"}\n\n")


def test_a_finished_answer_is_complete_without_the_end_mark() -> None:
    relayed = stream()
    relayed.feed(ROLE + text("a") + finish())
    assert not relayed.done
    assert relayed.finish() == DONE
    assert relayed.done


def test_an_answer_is_complete_when_all_choices_have_finished() -> None:
    relayed = stream(choices=2)
    relayed.feed(ROLE + text("a") + text("b", 1) + finish(index=1))
    assert relayed.finish().startswith(b'data: {"error":')
    relayed = stream(choices=2)
    relayed.feed(ROLE + text("a") + text("b", 1) + finish(index=1) + finish())
    assert relayed.finish() == DONE


def test_events_whose_head_varies_get_the_name_too() -> None:
    relayed = stream()
    relayed.feed(ROLE + text("a"))
    later = text("b").replace(b'"created":5', b'"created":6')
    assert relayed.feed(later) == named(later)
    other = b'data: {"model": "served", "choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    assert json.loads(relayed.feed(other)[6:])["model"] == "Mine"


def test_events_of_a_lost_stream_count_as_tokens() -> None:
    relayed = stream()
    relayed.feed(ROLE + text("a") + text("b"))
    relayed.feed(text("c") * 3)
    assert relayed.usage.completion_tokens == 5


@pytest.mark.parametrize("name", ["served", "Mine"])
@pytest.mark.parametrize("burst", [1, 3])
def test_a_long_stream_passes_as_a_short_one(name: str, burst: int) -> None:
    """After some events, those that hold nothing but text pass unread."""
    thoughts = [
        chunk([{"index": 0, "delta": {"reasoning": f"r{number}"}, "finish_reason": None}]) for number in range(9)
    ]
    tool = {"index": 0, "function": {"arguments": "{"}}
    texts = [text(f"{number} é \\ \n") for number in range(60)]
    texts[30:30] = [text('a "quote"')]
    texts[40:40] = [chunk([{"index": 0, "delta": {"tool_calls": [tool]}, "logprobs": None, "finish_reason": None}])]
    texts[50:50] = [text("other", 1)]
    relayed = stream(choices=2, name=name)
    events = [ROLE, *thoughts, *texts, finish(), finish(index=1), USAGE_EVENT, DONE]
    reads = [b"".join(events[start : start + burst]) for start in range(0, len(events), burst)]
    out = b"".join(map(relayed.feed, reads)) + relayed.finish()
    answers = [json.loads(event[6:]) for event in out.split(b"\n\n")[:-2]]
    assert {answer["model"] for answer in answers} == {name}
    expected = [json.loads(event[6:])["choices"] for event in events[:-2]]
    for choices in expected[1:10]:
        choices[0]["delta"]["reasoning_content"] = choices[0]["delta"]["reasoning"]
    assert [answer["choices"] for answer in answers] == expected
    assert (relayed.done, relayed.usage) == (True, Usage(9, 3, "stop"))


@pytest.mark.parametrize("burst", [1, 3])
def test_an_error_after_a_long_stream_is_a_failure(burst: int) -> None:
    relayed = stream()
    relayed.feed(ROLE)
    for _ in range(40):
        relayed.feed(text("a") * burst)
    assert relayed.feed(text("a") + b'data: {"error":{"message":"gone","code":500}}\n\n') == named(text("a"))
    assert (relayed.failure, relayed.usage.completion_tokens) == (StreamFailure(500, "gone"), 40 * burst + 1)

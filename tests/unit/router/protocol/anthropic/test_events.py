from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import STREAMS, stream
from vllama_pool.router.protocol.anthropic.events import FAILED, MessageStream, with_message_id
from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.protocol.vllm.whole_answer import STOPPED, WholeAnswer, read_count, read_message


def event(kind: str, **fields: Any) -> bytes:
    payload = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {payload}\n\n".encode()


def delta(kind: str = "text_delta", **fields: str) -> bytes:
    return event("content_block_delta", delta={"type": kind, **fields}, index=0)


def finish(reason: str | None = "end_turn", **usage: int) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


MESSAGE = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "stop_reason": None}
START = event("message_start", message={**MESSAGE, "model": "served", "usage": {"input_tokens": 9, "output_tokens": 0}})
BLOCK = event("content_block_start", content_block={"type": "text", "text": ""}, index=0)
BLOCK_STOP = event("content_block_stop", index=0)
STOP = event("message_stop")


def named(data: bytes) -> bytes:
    data = data.replace(b'"id":"chatcmpl-', b'"id":"msg_', 1)
    return data.replace(b'"model":"served"', b'"model":"Mine"').replace(b'"model":"qwen3-tiny"', b'"model":"Mine"')


def error(text: str, kind: str = "api_error") -> bytes:
    return event("error", error={"type": kind, "message": text})


@pytest.mark.rule(45, 124)
@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
@pytest.mark.parametrize(
    ("captured", "usage"),
    [("messages-thinking", Usage(13, 46, "end_turn")), ("messages-tools", Usage(105, 46, "tool_use"))],
)
def test_a_captured_stream_passes_with_the_models_name_as_spelled(captured: str, usage: Usage, size: int) -> None:
    relayed, data = MessageStream("Mine"), stream(captured)
    out = b"".join(relayed.feed(data[start : start + size]) for start in range(0, len(data), size)) + relayed.finish()
    assert out == named(data)
    assert (relayed.done, relayed.failure, relayed.usage) == (True, None, usage)


@pytest.mark.rule(123)
@pytest.mark.parametrize(
    ("captured", "usage"),
    [
        ("messages-whole", Usage(13, 46, "end_turn")),
        ("messages-tools", Usage(105, 46, "tool_use")),
        ("messages-count", Usage()),
    ],
)
def test_a_captured_whole_answer_passes_with_the_models_name_as_spelled(captured: str, usage: Usage) -> None:
    read = read_count if captured == "messages-count" else read_message
    answer, data = WholeAnswer("Mine", read, with_message_id), (STREAMS / f"{captured}.json").read_bytes()
    assert answer.feed(data) + answer.finish() == named(data)
    assert (answer.done, answer.failure, answer.usage) == (True, None, usage)


def test_text_that_looks_like_the_name_or_an_event_stays() -> None:
    relayed = MessageStream("Mine")
    text = delta(text='"model":"served" event: message_stop "error" "message_stop"')
    assert relayed.feed(START + BLOCK + text) == named(START) + BLOCK + text
    assert (relayed.done, relayed.failure) == (False, None)


@pytest.mark.parametrize("first", [BLOCK, delta(text="a"), finish()])
def test_an_answer_begins_with_its_first_block_or_its_end(first: bytes) -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + event("ping"))
    assert (relayed.begun, relayed.ready) == (False, False)
    relayed.feed(first)
    assert (relayed.begun, relayed.ready) == (True, True)


def test_a_stream_without_its_last_event_is_complete_once_it_has_a_stop_reason() -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + BLOCK + delta(text="a") + BLOCK_STOP + finish(input_tokens=9, output_tokens=1))
    assert not relayed.done
    assert relayed.finish() == STOP
    assert (relayed.done, relayed.usage) == (True, Usage(9, 1, "end_turn"))


def test_a_last_event_without_its_blank_line_counts() -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + BLOCK + finish() + STOP[:-2])
    assert relayed.finish() == STOP
    assert relayed.done


@pytest.mark.parametrize("rest", [b"", STOP, BLOCK_STOP])
def test_a_stream_without_a_stop_reason_ends_with_an_error(rest: bytes) -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + BLOCK + delta(text="a") + rest)
    assert relayed.finish() == error("the worker's answer ended before it was whole")
    assert not relayed.done
    assert relayed.finish() == b""


def test_tokens_are_counted_until_the_worker_says_their_number() -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + BLOCK)
    for _ in range(3):
        relayed.feed(delta(text="a"))
    relayed.feed(delta("signature_delta", signature="s") + BLOCK_STOP)
    assert relayed.usage == Usage(9, 3, "")


def test_the_prompts_tokens_include_those_of_the_cache() -> None:
    relayed = MessageStream("Mine")
    usage = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 16, "cache_creation_input_tokens": 4}
    relayed.feed(START + BLOCK + finish(**usage) + STOP)
    assert relayed.usage == Usage(25, 2, "end_turn")


HIDDEN = (
    "2 validation errors for ChatCompletionStreamResponse\nmodel\n  Field required [type=missing, "
    "input_value={'error': {'message': 'En...am': None, 'code': 503}}, input_type=dict]"
)


@pytest.mark.rule(168)
@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({"type": "overloaded_error", "message": "full"}, StreamFailure(503, "full")),
        ({"type": "rate_limit_error", "message": "slow"}, StreamFailure(429, "slow")),
        ({"type": "invalid_request_error", "message": "bad"}, StreamFailure(400, "bad")),
        ({"type": "BadRequestError", "message": "bad"}, StreamFailure(400, "bad")),
        ({"type": "internal_error", "message": "oh"}, StreamFailure(500, "oh")),
        ({"type": "internal_error", "message": "oh", "code": 504}, StreamFailure(504, "oh")),
        ({"type": "internal_error", "message": HIDDEN}, StreamFailure(503, FAILED)),
        ({"type": "internal_error", "message": HIDDEN.replace("'code': 503", "")}, StreamFailure(500, FAILED)),
        ({}, StreamFailure(500, "unknown error")),
        ("plain", StreamFailure(500, "plain")),
    ],
)
@pytest.mark.parametrize("begun", [b"", BLOCK + delta(text="a")])
def test_an_error_event_is_a_failure_with_its_own_status(fields: Any, failure: StreamFailure, begun: bytes) -> None:
    relayed = MessageStream("Mine")
    out = relayed.feed(START + begun + event("error", error=fields))
    assert out == named(START) + begun
    assert relayed.failure == failure
    assert (relayed.begun, relayed.done) == (bool(begun), False)
    kind = {400: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}
    assert relayed.finish() == error(failure.text, kind.get(failure.status, "api_error"))


def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + BLOCK)
    assert relayed.fail("the worker was lost") == error("the worker was lost")
    assert relayed.feed(delta(text="late")) == relayed.finish() == b""


def test_a_message_without_a_stop_reason_was_given_up_by_the_worker() -> None:
    relayed = MessageStream("Mine")
    assert relayed.feed(START + finish(None)) == named(START)
    assert (relayed.begun, relayed.failure) == (False, StreamFailure(503, STOPPED))
    answer = WholeAnswer("Mine", read_message)
    answer.feed(json.dumps({**MESSAGE, "model": "served"}).encode())
    answer.finish()
    assert (answer.done, answer.failure) == (False, StreamFailure(503, STOPPED))


@pytest.mark.parametrize("payload", [b"{", b"[]", b"[DONE]", b'{"type":5}'])
def test_an_invalid_event_is_a_failure(payload: bytes) -> None:
    relayed = MessageStream("Mine")
    relayed.feed(START + b"event: x\ndata: " + payload + b"\n\n")
    assert relayed.failure == StreamFailure(502, "the worker sent an invalid event")

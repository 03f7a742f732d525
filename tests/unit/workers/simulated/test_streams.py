from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chat import ChatStream
from vllama_pool.workers.simulated.completions import CompletionStream
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.streams import ResponseHead, Stream

TOKENS = [Token(number, f"{number} ", Kind.CONTENT, json.dumps(f"{number} ").encode()) for number in range(9)]
CALLS = [
    Token(10, "one", Kind.CALL, b'"one"'),
    Token(11, "{}", Kind.ARGUMENTS, b'"{}"'),
    Token(12, "two", Kind.CALL, b'"two"'),
    Token(13, "{}", Kind.ARGUMENTS, b'"{}"'),
]


class Written:
    """Keeps the events of a stream."""

    def __init__(self) -> None:
        self.blocked = False
        self.data: list[bytes] = []

    def event(self, data: bytes) -> None:
        self.data.append(data)

    @property
    def choices(self) -> list[dict[str, Any]]:
        events = [json.loads(event[6:]) for event in self.data if event.startswith(b"data: {")]
        return [choice for event in events for choice in event["choices"]]

    @property
    def tokens_by_event(self) -> list[int]:
        return [len(ids) for choice in self.choices if (ids := choice.get("token_ids"))]


def stream(kind: type[Stream], written: Written, **head: Any) -> Stream:
    made = ResponseHead("1", 0, "m", **{"prompts": ((1, 2),), "return_token_ids": True, **head})
    return kind(made, Counts(tuple(map(len, made.prompts)), made.choices), written)


@pytest.mark.parametrize("kind", [ChatStream, CompletionStream])
@pytest.mark.parametrize(("interval", "expected"), [(1, [1] * 9), (4, [1, 4, 4]), (5, [1, 5, 3]), (30, [1, 8])])
def test_events_hold_as_many_tokens_as_the_interval_says(
    kind: type[Stream], interval: int, expected: list[int]
) -> None:
    written = Written()
    output = stream(kind, written, stream_interval=interval)
    for token in TOKENS:
        output.token(0, token, "length" if token is TOKENS[-1] else "", None)
    assert written.tokens_by_event == expected


def test_an_aborted_stream_sends_the_tokens_that_waited() -> None:
    written = Written()
    output = stream(ChatStream, written, stream_interval=30)
    for token in TOKENS[:4]:
        output.token(0, token, "", None)
    output.abort()
    assert written.tokens_by_event == [1, 3, 1]


@pytest.mark.parametrize("kind", [ChatStream, CompletionStream])
def test_choices_end_by_themselves_and_the_stream_with_the_last(kind: type[Stream]) -> None:
    written = Written()
    output = stream(kind, written, choices=2, prompts=((1,), (2, 3)), return_token_ids=False)
    for index in range(4):
        output.token(index, TOKENS[0], "", None)
    for index in (2, 0, 3):
        output.token(index, TOKENS[1], "stop", None)
    assert written.data[-1] != b"data: [DONE]\n\n"
    output.token(1, TOKENS[1], "length", None)
    assert written.data[-1] == b"data: [DONE]\n\n"
    ends = [(choice["index"], choice["finish_reason"]) for choice in written.choices if choice["finish_reason"]]
    assert ends == [(2, "stop"), (0, "stop"), (3, "stop"), (1, "length")]


def test_an_aborted_stream_ends_the_choices_that_run() -> None:
    written = Written()
    output = stream(ChatStream, written, choices=2)
    output.token(0, TOKENS[0], "stop", None)
    output.abort()
    ends = [(choice["index"], choice["finish_reason"]) for choice in written.choices if choice["finish_reason"]]
    assert ends == [(0, "stop"), (1, "abort")]
    assert written.data[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(("most", "expected"), [(None, [0, 0, 1, 1]), (1, [0, 0])])
def test_further_calls_are_hidden_where_one_is_wanted(most: int | None, expected: list[int]) -> None:
    written = Written()
    output = stream(ChatStream, written, max_calls=most)
    for token in CALLS:
        output.token(0, token, "tool_calls" if token is CALLS[-1] else "", None)
    calls = [call["index"] for choice in written.choices for call in choice["delta"].get("tool_calls", ())]
    assert calls == expected

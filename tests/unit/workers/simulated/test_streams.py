from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.streams import ChatStream, CompletionStream, ResponseHead, Stream

TOKENS = [Token(number, f"{number} ", Kind.CONTENT, json.dumps(f"{number} ").encode()) for number in range(9)]


def stream(kind: type[Stream], written: list[bytes], **head: Any) -> Stream:
    more: dict[str, Any] = {"call_id": lambda: "c"} if kind is ChatStream else {}
    return kind(
        ResponseHead("1", 0, "m", "f", (), return_token_ids=True, **head),
        written.append,
        lambda: False,
        usage=dict,
        final_usage=dict,
        metrics=lambda: None,
        **more,
    )


def tokens_by_event(written: list[bytes]) -> list[int]:
    events = [json.loads(event[6:]) for event in written if event.startswith(b"data: {")]
    return [len(ids) for event in events for choice in event["choices"] if (ids := choice.get("token_ids"))]


@pytest.mark.parametrize("kind", [ChatStream, CompletionStream])
@pytest.mark.parametrize(("interval", "expected"), [(1, [1] * 9), (4, [1, 4, 4]), (5, [1, 5, 3]), (30, [1, 8])])
def test_events_hold_as_many_tokens_as_the_interval_says(
    kind: type[Stream], interval: int, expected: list[int]
) -> None:
    written: list[bytes] = []
    output = stream(kind, written, stream_interval=interval)
    for token in TOKENS:
        output.token(token, "length" if token is TOKENS[-1] else "", None)
    assert tokens_by_event(written) == expected


def test_an_aborted_stream_sends_the_tokens_that_waited() -> None:
    written: list[bytes] = []
    output = stream(ChatStream, written, stream_interval=30)
    for token in TOKENS[:4]:
        output.token(token, "", None)
    output.abort()
    assert tokens_by_event(written) == [1, 3, 1]

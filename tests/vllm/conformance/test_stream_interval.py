"""Several tokens in one event (`stream_interval`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import httpx
import pytest

from tests.support.vllm.server_pair import CHAT, COMPLETIONS, NO_THINKING, QUESTION, STREAM_WITH_USAGE, ServerPair

TOKENS = 42
"""So many that vLLM's front end is not too late for all of them."""
EVERY_FOUR: dict[str, Any] = {**STREAM_WITH_USAGE, "stream_interval": 4, "max_tokens": TOKENS, "ignore_eos": True}


def choices(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            yield from json.loads(line[6:])["choices"]


def text(response: httpx.Response, field: str = "content") -> str:
    return "".join(choice["delta"].get(field) or "" for choice in choices(response))


def completion_tokens(response: httpx.Response) -> int:
    """Return the number in the usage at the stream's end. Events can be fewer: see `assert_groups_of_four`."""
    usage: dict[str, int] = json.loads(response.text.split("data: ")[-2])["usage"]
    return usage["completion_tokens"]


def assert_groups_of_four(tokens: list[int]) -> None:
    """Check the tokens of each event. vLLM joins groups that its front end was too late for."""
    *begun, all_tokens = sorted(set(accumulate(tokens)) - {0})
    assert all_tokens == TOKENS
    assert begun
    assert set(begun) <= set(range(1, TOKENS, 4))


@pytest.mark.parametrize(("path", "prompt"), [(CHAT, QUESTION), (COMPLETIONS, {"prompt": "Hello there"})])
def test_the_first_token_comes_at_once_and_later_ones_in_groups(
    chat_pair: ServerPair, path: str, prompt: dict[str, Any]
) -> None:
    for answer in chat_pair.compare_fields(path, **prompt, **EVERY_FOUR, return_token_ids=True):
        assert_groups_of_four([len(choice.get("token_ids") or ()) for choice in choices(answer)])


def test_grouped_events_hold_the_logprobs_of_every_token(chat_pair: ServerPair) -> None:
    for answer in chat_pair.compare_fields(CHAT, **QUESTION, **EVERY_FOUR, logprobs=True, top_logprobs=1):
        assert_groups_of_four([len((choice["logprobs"] or {}).get("content") or ()) for choice in choices(answer)])


def test_grouped_events_hold_the_same_thinking_and_answer(thinking_pair: ServerPair) -> None:
    fields = {**QUESTION, **STREAM_WITH_USAGE, "max_tokens": 200}
    single, grouped = (
        thinking_pair.compare_fields(CHAT, **fields, **more)[0] for more in ({}, {"stream_interval": 30})
    )
    assert len(list(choices(grouped))) < completion_tokens(single) / 4
    assert text(grouped, "reasoning") == text(single, "reasoning") != ""
    assert text(grouped) == text(single) != ""


def test_a_stop_string_ends_a_grouped_answer_where_it_ends_any_other(thinking_pair: ServerPair) -> None:
    fields = {**QUESTION, **NO_THINKING, **STREAM_WITH_USAGE, "stop": ["count", "llama llama"]}
    for single, grouped in zip(
        thinking_pair.compare_fields(CHAT, **fields),
        thinking_pair.compare_fields(CHAT, **fields, stream_interval=30),
        strict=True,
    ):
        assert text(grouped) == text(single)


def test_an_interval_below_one_is_refused(chat_pair: ServerPair) -> None:
    for answer in chat_pair.compare_fields(CHAT, **QUESTION, stream=True, stream_interval=0):
        assert answer.status_code == 400

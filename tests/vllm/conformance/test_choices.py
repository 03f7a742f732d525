"""Several answers to a request: `n`, and several prompts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import (
    CHAT,
    COMPLETIONS,
    NO_THINKING,
    QUESTION,
    STREAM_WITH_USAGE,
    ServerPair,
    every_mode,
    field_names,
)

SAMPLED = {"temperature": 1, "ignore_eos": True}
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@every_mode
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"n": 3, "logprobs": True, "top_logprobs": 2},
        {"n": 2, "return_token_ids": True},
        {"n": None},
    ],
    ids=field_names,
)
def test_a_simulated_chat_has_as_many_choices_as_the_real_one(
    chat_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    chat_pair.compare_fields(CHAT, **QUESTION, **SAMPLED, max_tokens=4, **fields, **mode)


def test_choices_of_a_thinking_model_have_the_shape_of_the_real_ones(thinking_pair: ServerPair) -> None:
    for mode in ({}, STREAM_WITH_USAGE, CONTINUOUS):
        thinking_pair.compare_fields(CHAT, **QUESTION, temperature=0.01, n=2, max_tokens=6, **mode)
        thinking_pair.compare_fields(CHAT, **QUESTION, **SAMPLED, **NO_THINKING, n=2, max_tokens=3, **mode)


@pytest.mark.parametrize("mode", [{}, {"stream": True}, STREAM_WITH_USAGE, CONTINUOUS], ids=field_names)
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["Hello there", "Why"]},
        {"prompt": [[1, 2], [3]], "return_token_ids": True},
        {"prompt": ["Hello there", "Why"], "n": 2},
        {"prompt": "Hello there", "n": 2, "logprobs": 1},
        {"prompt": ["Hello there", "Why not"], "echo": True, "n": 2},
        {"prompt": "Hello there", "echo": True, "logprobs": 0},
        {"prompt": ["Hello there", "Why not"], "echo": True, "logprobs": 2},
        {"prompt": "Hello there", "echo": True, "logprobs": 1, "return_token_ids": True},
        {"prompt": "Hello there", "echo": True, "max_tokens": 0},
        {"prompt": "Hello there", "echo": True, "max_tokens": 0, "logprobs": 1},
        {"prompt": "Hello there", "user": "me", "best_of": 2, "service_tier": "flex"},
    ],
    ids=field_names,
)
def test_a_simulated_completion_has_the_choices_of_the_real_one(
    chat_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    sent = {"max_tokens": 3, **SAMPLED, **fields}
    chat_pair.compare_fields(COMPLETIONS, **sent, **mode)


def test_the_usage_counts_all_prompts_and_choices(chat_pair: ServerPair) -> None:
    for answer in chat_pair.compare_fields(CHAT, **QUESTION, **SAMPLED, n=3, max_tokens=4):
        assert answer.json()["usage"]["completion_tokens"] == 12
    prompts = [[1, 2], [3]]
    for answer in chat_pair.compare_fields(COMPLETIONS, prompt=prompts, **SAMPLED, n=2, max_tokens=4):
        usage = answer.json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 16)
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2, 3]

"""Chats and completions without thinking and tools, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import (
    CHAT,
    COMPLETIONS,
    NO_THINKING,
    QUESTION,
    ServerPair,
    every_mode,
    field_names,
)


@every_mode
@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5},
        {"max_tokens": 8, "logprobs": True, "top_logprobs": 2},
        {"max_tokens": 5, "return_token_ids": True},
        {"max_tokens": 5, "ignore_eos": True, "seed": 7, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
        {"max_completion_tokens": 4},
        {"max_tokens": 40, "stop": ["never to be seen"]},
        {"max_tokens": 3, "made_up_field": 1},
    ],
    ids=field_names,
)
def test_the_simulated_chat_answers_as_the_real_one(
    chat_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    chat_pair.compare_fields(CHAT, **QUESTION, **fields, **mode)


def test_continuous_usage_stats_are_in_every_event_of_a_simulated_chat(chat_pair: ServerPair) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chat_pair.compare_fields(CHAT, **QUESTION, max_tokens=5, stream=True, stream_options=options)


def test_a_chat_with_a_system_message_and_content_parts_is_answered_alike(chat_pair: ServerPair) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Why is the sky blue?"},
    ]
    chat_pair.compare_fields(CHAT, messages=messages, max_tokens=4)


@every_mode
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hello there", "max_tokens": 5},
        {"prompt": "Hello there"},
        {"prompt": [1, 2, 3], "max_tokens": 3, "return_token_ids": True},
        {"prompt": "Hello there", "max_tokens": 6, "logprobs": 2},
        {"prompt": "Hello there", "max_tokens": 10, "stop": "never to be seen"},
        {"prompt": ["Hello there"], "max_tokens": 3, "echo": True},
    ],
    ids=field_names,
)
def test_the_simulated_completion_answers_as_the_real_one(
    chat_pair: ServerPair, fields: dict[str, Any], mode: dict[str, Any]
) -> None:
    chat_pair.compare_fields(COMPLETIONS, **fields, **mode)


def test_a_completion_without_max_tokens_has_sixteen_tokens(chat_pair: ServerPair) -> None:
    for answer in chat_pair.compare_fields(COMPLETIONS, prompt="Once upon a time", ignore_eos=True):
        assert answer.json()["usage"]["completion_tokens"] == 16


def test_a_completion_ends_without_an_error_where_the_context_is_full(chat_pair: ServerPair) -> None:
    prompt = [5] * (chat_pair.context - 3)
    for answer in chat_pair.compare_fields(COMPLETIONS, prompt=prompt, max_tokens=100, ignore_eos=True):
        assert answer.json()["usage"]["completion_tokens"] == 3


def test_an_answer_has_the_id_of_its_request(chat_pair: ServerPair) -> None:
    for answer in chat_pair.compare_fields(CHAT, **QUESTION, max_tokens=1, request_id="mine"):
        assert answer.json()["id"] == "chatcmpl-mine"
    body = {"model": chat_pair.model, "prompt": "x", "max_tokens": 1}
    for answer in chat_pair.compare(COMPLETIONS, body, headers={"X-Request-Id": "theirs"}):
        assert answer.json()["id"] == "cmpl-theirs"


def test_a_completion_of_token_ids_resumes_a_cut_answer(chat_pair: ServerPair) -> None:
    """Resuming relies on this: a completion of the prompt's and the answer's ids so far gives the rest."""
    fields = {"ignore_eos": True, "return_token_ids": True}
    chats = chat_pair.compare_fields(CHAT, **QUESTION, max_tokens=20, **fields)
    for url, chat in zip(chat_pair.urls, (chat.json() for chat in chats), strict=True):
        ids = chat["choices"][0]["token_ids"]
        prompt = chat["prompt_token_ids"] + ids[:8]
        [rest] = chat_pair.post(url, COMPLETIONS, prompt=prompt, max_tokens=12, **fields)["choices"]
        assert rest["token_ids"] == ids[8:]
        assert chat["choices"][0]["message"]["content"].endswith(rest["text"])


def test_a_stop_string_ends_the_answer_and_is_its_stop_reason(thinking_pair: ServerPair) -> None:
    """One stop string is in the answer that the model has learned, the other in the simulated one."""
    for mode in ({}, {"stream": True}):
        thinking_pair.compare_fields(CHAT, **QUESTION, **NO_THINKING, stop=["count", "llama llama"], **mode)

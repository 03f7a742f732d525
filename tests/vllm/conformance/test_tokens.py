"""Token counts, token ids, and prompts cut to a number of tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.vllm.server_pair import (
    BEGUN,
    CHAT,
    COMPLETIONS,
    DETOKENIZE,
    NO_THINKING,
    QUESTION,
    STREAM_WITH_USAGE,
    TOKENIZE,
    ServerPair,
    field_names,
)
from tests.support.vllm.weather_tool import CHAT as WEATHER


def test_simulated_tokenize_and_detokenize_answer_as_the_real_ones(chat_pair: ServerPair) -> None:
    chat_pair.compare_fields(TOKENIZE, prompt="Hello there")
    chat_pair.compare_fields(TOKENIZE, **QUESTION, return_token_strs=True)
    chat_pair.compare_fields(DETOKENIZE, tokens=[1, 2, 3])
    for answer in chat_pair.compare_fields(DETOKENIZE, tokens=[999_999]):
        assert answer.json() == {"prompt": ""}
    for tokens in ([2**32], [-1]):
        chat_pair.compare_fields(DETOKENIZE, tokens=tokens)


@pytest.mark.parametrize("fields", [{}, NO_THINKING, WEATHER, {"return_token_strs": True}, BEGUN], ids=field_names)
def test_tokenize_returns_the_token_ids_of_the_chats_prompt(thinking_pair: ServerPair, fields: dict[str, Any]) -> None:
    """Shortening a conversation relies on this: it counts by `/tokenize`."""
    chat = {**QUESTION, **fields}
    for url, counted in zip(thinking_pair.urls, thinking_pair.compare_fields(TOKENIZE, **chat), strict=True):
        answer = thinking_pair.post(url, CHAT, **chat, max_tokens=1, return_token_ids=True)
        assert answer["prompt_token_ids"] == counted.json()["tokens"]
        assert counted.json()["max_model_len"] == thinking_pair.context


def test_tokenize_counts_more_tokens_than_the_context_holds(thinking_pair: ServerPair) -> None:
    messages = [{"role": "user", "content": "hello " * 20000}]
    for answer in thinking_pair.compare_fields(TOKENIZE, messages=messages):
        assert answer.json()["count"] > 2 * thinking_pair.context


def test_detokenize_keeps_the_chat_markup(thinking_pair: ServerPair) -> None:
    for url in thinking_pair.urls:
        tokens = thinking_pair.post(url, TOKENIZE, **QUESTION)["tokens"]
        text = thinking_pair.post(url, DETOKENIZE, tokens=tokens)["prompt"]
        assert text == "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_a_message_that_is_continued_has_no_end_mark_and_no_tool_calls(thinking_pair: ServerPair) -> None:
    user, begun = BEGUN["messages"]
    called = {**begun, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    for url in thinking_pair.urls:
        for last in (begun, called):
            tokens = thinking_pair.post(url, TOKENIZE, **{**BEGUN, "messages": [user, last]})["tokens"]
            text = thinking_pair.post(url, DETOKENIZE, tokens=tokens)["prompt"]
            assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nHello! I am a"


def test_a_completion_of_a_chat_prompt_has_think_tags_in_its_text(thinking_pair: ServerPair) -> None:
    for url in thinking_pair.urls:
        tokens = thinking_pair.post(url, TOKENIZE, **QUESTION)["tokens"]
        text = thinking_pair.post(url, COMPLETIONS, prompt=tokens, max_tokens=500)["choices"][0]["text"]
        assert text.lstrip().startswith("<think>")
        assert "</think>" in text


def test_a_prompt_of_token_ids_is_truncated(thinking_pair: ServerPair) -> None:
    fields = {"truncate_prompt_tokens": 1000, "max_tokens": 3, "ignore_eos": True}
    for answer in thinking_pair.compare_fields(COMPLETIONS, prompt=[5] * 5000, **fields):
        assert answer.json()["usage"]["prompt_tokens"] == 1000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("words", [3000, 60000], ids=["too many tokens", "too many characters"])
def test_a_text_prompt_of_any_length_is_truncated(
    thinking_pair: ServerPair, path: str, words: int, stream: bool
) -> None:
    text = "hello " * words
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    fields = {"truncate_prompt_tokens": 1000, "max_tokens": 3, "ignore_eos": True, **NO_THINKING}
    mode = STREAM_WITH_USAGE if stream else {}
    for answer in thinking_pair.compare_fields(path, **prompt, **fields, **mode):
        document = answer.text.split("data: ")[-2] if stream else answer.text
        assert json.loads(document)["usage"]["prompt_tokens"] == 1000

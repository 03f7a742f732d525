"""Servers whose chat completions, completions or embeddings are wrong."""

from __future__ import annotations

import json

from tests.support.compat.changes import (
    Change,
    arguments_as_object,
    big_endian,
    calls_without,
    events,
    in_choices,
    in_messages,
    objects,
    renamed,
    text,
    thinking_aloud,
    unordered,
    vectors,
    without,
)
from tests.support.compat.v1_checks import CHAT_CALLS, CHATS

WRONG_CHATS: tuple[tuple[str, Change, tuple[str, ...]], ...] = (
    (
        "is one wrong kind of object",
        text('"object": "', '"object": "x'),
        (
            "chat_completions_answers",
            "completions_answers",
            "completions_stream_chunks",
            "chat_completions_stream_chunks",
            "openai_embeddings_answers",
            "responses_answers",
        ),
    ),
    (
        "has ids of its own",
        text('"id": "', '"id": "x'),
        (
            "chat_completions_answers",
            "completions_answers",
            "responses_answers",
        ),
    ),
    (
        "has no ids",
        text('"id": ', '"number": '),
        ("chat_completions_answers", "responses_answers", "messages_answers", "messages_stream_events"),
    ),
    (
        "counts no tokens",
        without("usage"),
        (
            "chat_completions_answers",
            "completions_answers",
            "openai_embeddings_answers",
            "responses_answers",
            "messages_answers",
            "a_chat_stream_ends_with_its_usage_if_asked",
            "a_completion_stream_ends_with_its_usage_if_asked",
            "message_streams_end_with_the_true_usage",
        ),
    ),
    (
        "counts wrongly",
        objects(lambda found: found.get("usage") and found["usage"].update(total_tokens=1)),
        ("chat_completions_answers", "completions_answers", "openai_embeddings_answers", "responses_answers"),
    ),
    (
        "counts in every chunk",
        objects(lambda found: found.update(usage={"prompt_tokens": 7, "completion_tokens": 1})),
        (
            "chat_completions_stream_chunks",
            "completions_stream_chunks",
            "a_chat_stream_ends_with_its_usage_if_asked",
            "a_completion_stream_ends_with_its_usage_if_asked",
        ),
    ),
    ("ignores limits", text('"length"', '"stop"'), ("max_tokens_bounds_a_chat", "max_tokens_bounds_a_completion")),
    (
        "ends for its own reasons",
        text('"finish_reason": "', '"finish_reason": "x'),
        (*CHATS[:1], "chat_completions_stream_chunks", "completions_answers", "completions_stream_chunks"),
    ),
    (
        "has no role",
        in_messages(lambda message: message.pop("role", None)),
        ("chat_completions_answers", "chat_completions_stream_chunks"),
    ),
    (
        "repeats the role",
        in_messages(lambda message: message.update(role="assistant")),
        ("chat_completions_stream_chunks",),
    ),
    (
        "has two choices",
        objects(lambda found: found.update(choices=2 * found["choices"]) if found.get("choices") else None),
        (
            "chat_completions_answers",
            "completions_answers",
            "chat_completions_stream_chunks",
            "completions_stream_chunks",
        ),
    ),
    (
        "never says [DONE]",
        events(lambda found: [event for event in found if "[DONE]" not in event]),
        ("chat_completions_stream_chunks", "completions_stream_chunks"),
    ),
    (
        "has a new id for each chunk",
        objects(lambda found: found.update(id=f"chatcmpl-{len(json.dumps(found))}")),
        ("chat_completions_stream_chunks",),
    ),
    (
        "goes on after the end",
        events(lambda found: [*found[:-1], found[1], found[-1]]),
        ("chat_completions_stream_chunks", "completions_stream_chunks"),
    ),
    (
        "says the end twice",
        events(lambda found: [*found[:-1], found[-2], found[-1]]),
        ("chat_completions_stream_chunks", "completions_stream_chunks"),
    ),
    (
        "goes over stops",
        text('"content": "', '"content": "one two three four five six seven eight '),
        ("chats_stop_at_a_text_or_a_list_of_them",),
    ),
    (
        "goes over stops of completions",
        text('"text": "', '"text": "one two three four five six seven eight '),
        ("completions_stop_at_a_text_or_a_list_of_them",),
    ),
    (
        "goes over stops of messages",
        text('"content": [', '"content": [{"type": "text", "text": "one two three four five six seven eight "}, '),
        ("messages_stop_at_a_sequence",),
    ),
    (
        "ignores formats",
        text('{\\"ok\\"', 'Yes: {\\"ok\\"'),
        ("response_format_gives_json", "responses_follow_a_schema"),
    ),
    ("gives any JSON", text('\\"ok\\"', '\\"no\\"'), ("response_format_gives_json", "responses_follow_a_schema")),
    (
        "knows no logprobs",
        in_choices(lambda choice: choice.pop("logprobs", None)),
        ("chat_logprobs_are_one_entry_per_token",),
    ),
    (
        "has too few alternatives",
        text('"top_logprobs": [', '"top_logprobs": [], "x": ['),
        ("chat_logprobs_are_one_entry_per_token",),
    ),
    (
        "always has logprobs",
        in_choices(lambda choice: choice.update(logprobs={"content": []})),
        ("chats_without_logprobs_have_none",),
    ),
    (
        "thinks in reasoning_content",
        in_messages(renamed("reasoning", "reasoning_content")),
        ("thinking_is_in_reasoning",),
    ),
    ("thinks aloud", in_messages(thinking_aloud), ("thinking_is_in_reasoning",)),
    (
        "always thinks",
        in_messages(lambda message: message.update(reasoning="Well.")),
        ("an_effort_of_none_turns_thinking_off",),
    ),
    ("has arguments as objects", in_messages(arguments_as_object), CHAT_CALLS),
    ("has calls without a type", in_messages(calls_without("type")), CHAT_CALLS),
    ("has calls without an id", in_messages(calls_without("id")), CHAT_CALLS),
    ("streams calls without an index", in_messages(calls_without("index")), CHAT_CALLS[1:]),
    ("stops for calls", text('"tool_calls"}', '"stop"}'), CHAT_CALLS[1:]),
    (
        "has wide vectors",
        vectors(lambda vector: [2 * number for number in vector] if isinstance(vector, list) else vector),
        ("openai_vectors_have_length_one", "openai_embeddings_come_as_floats_or_base64"),
    ),
    ("has vectors in another order", objects(unordered), ("openai_embeddings_keep_their_order",)),
    ("numbers vectors from one", text('"index": 0', '"index": 1'), ("openai_embeddings_answers",)),
    (
        "knows no base64",
        vectors(lambda vector: [1.0] if isinstance(vector, str) else vector),
        ("openai_embeddings_come_as_floats_or_base64",),
    ),
    (
        "has numbers in other bytes",
        vectors(big_endian),
        ("openai_embeddings_come_as_floats_or_base64",),
    ),
    (
        "has no vectors for no text",
        objects(lambda found: found.update(data=[])),
        ("an_empty_text_has_an_openai_vector",),
    ),
    (
        "ignores dimensions",
        vectors(lambda vector: [*vector, 0.0] if isinstance(vector, list) else vector),
        ("openai_vectors_are_truncated_to_dimensions",),
    ),
    ("names no encoding", text("encoding_format", "it"), ("embeddings refuses an unknown encoding",)),
    (
        "refuses images in its own words",
        text("image URLs", "URLs"),
        ("chat/completions refuses images by URL", "responses refuses images by URL"),
    ),
)
"""For each: what is wrong, the change, and the checks that differ."""

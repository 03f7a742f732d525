"""Servers whose responses, messages or transcriptions are wrong."""

from __future__ import annotations

from tests.support.compat.changes import Change, at_end, events, header, objects, text, without_events
from tests.support.compat.v1_checks import CHAT_CALLS, MESSAGE_STREAMS, RESPONSE_STREAMS

WRONG_ITEMS: tuple[tuple[str, Change, tuple[str, ...]], ...] = (
    ("finishes nothing", text('"status": "completed"', '"status": "in_progress"'), ("responses_answers",)),
    (
        "has texts of chats",
        text("output_text", "text"),
        ("responses_answers", "responses_stream_the_text_of_a_message"),
    ),
    (
        "has items without ids",
        objects(lambda found: [item.pop("id", None) for item in found.get("output", ())]),
        ("responses_answers",),
    ),
    (
        "exceeds the limit of a response",
        objects(lambda found: found.get("usage") and found["usage"].update(output_tokens=17, total_tokens=24)),
        ("max_output_tokens_bounds_a_response",),
    ),
    (
        "thinks in messages",
        text('"type": "reasoning"', '"type": "thought"'),
        ("responses_think_in_items_of_their_own", "responses_stream_reasoning_first"),
    ),
    (
        "thinks last",
        objects(lambda found: found.get("output") and found["output"].reverse()),
        ("responses_think_in_items_of_their_own",),
    ),
    (
        "always thinks in responses",
        objects(
            lambda found: (
                found.get("output")
                and found["output"].append(
                    {"id": "x", "type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]}
                )
            )
        ),
        ("responses_do_not_think_with_an_effort_of_none",),
    ),
    (
        "has calls of another name",
        text("get_weather", "weather"),
        (
            "responses_call_functions",
            "responses_accept_functions_in_a_namespace",
            "responses_stream_the_arguments_of_calls",
            "messages_use_tools",
            "message_streams_use_tools",
            *CHAT_CALLS,
        ),
    ),
    (
        "has calls without a call_id",
        text('"call_id"', '"the_call"'),
        ("responses_call_functions", "responses_stream_the_arguments_of_calls"),
    ),
    (
        "shows its search",
        objects(
            lambda found: (
                found.get("output")
                and found["output"].append({"id": "x", "type": "function_call", "name": "web_search"})
            )
        ),
        ("responses_never_show_a_web_search_as_a_function",),
    ),
    ("does not number its events", text('"sequence_number"', '"number"'), RESPONSE_STREAMS),
    ("numbers all events alike", objects(lambda found: found.update(sequence_number=1)), RESPONSE_STREAMS),
    (
        "names no events",
        events(lambda found: [event.partition("\n")[2] or event for event in found]),
        (*RESPONSE_STREAMS, *MESSAGE_STREAMS),
    ),
    ("does not begin", without_events("response.in_progress"), RESPONSE_STREAMS),
    ("does not end", without_events("response.completed"), RESPONSE_STREAMS),
    ("says [DONE]", events(lambda found: [*found, "data: [DONE]"]), (*RESPONSE_STREAMS, *MESSAGE_STREAMS)),
    ("ends no items", without_events("response.output_item.done"), RESPONSE_STREAMS),
    ("begins no items", without_events("response.output_item.added"), RESPONSE_STREAMS),
    ("begins no parts", without_events("response.content_part.added"), ("responses_stream_the_text_of_a_message",)),
    ("sums up no text", without_events("response.output_text.done"), ("responses_stream_the_text_of_a_message",)),
    ("streams another text", text('"delta": "one ', '"delta": "two '), ("responses_stream_the_text_of_a_message",)),
    (
        "has one place for all items",
        text('"output_index": 1', '"output_index": 0'),
        ("responses_stream_reasoning_first",),
    ),
    (
        "streams no arguments",
        without_events("response.function_call_arguments.delta"),
        ("responses_stream_the_arguments_of_calls",),
    ),
    (
        "fails in the stream",
        events(lambda found: [*found[:-1], 'event: error\ndata: {"type": "error", "error": {}}']),
        (*RESPONSE_STREAMS, *MESSAGE_STREAMS),
    ),
    (
        "stops for OpenAI's reasons",
        text('"stop_reason": "', '"stop_reason": "x'),
        ("messages_answers", "messages_stream_events"),
    ),
    (
        "stops at no limit",
        text('"max_tokens"', '"end_turn"'),
        ("max_tokens_bounds_a_message", "message_streams_end_with_the_true_usage"),
    ),
    (
        "has content as a text",
        objects(lambda found: found.update(content="hello") if found.get("type") == "message" else None),
        ("messages_answers",),
    ),
    (
        "has blocks of another type",
        text('"type": "text"', '"type": "output_text"'),
        ("messages_answers", "messages_stream_events"),
    ),
    (
        "always thinks in messages",
        objects(lambda found: found.get("content") and found["content"].append({"type": "thinking", "thinking": "x"})),
        ("thinking_of_messages_can_be_disabled",),
    ),
    (
        "thinks in the text",
        text('"type": "thinking", "thinking"', '"type": "text", "text"'),
        ("messages_think_in_blocks_of_their_own", "message_streams_think_first"),
    ),
    ("has inputs as texts", text('"input": {"city": "Paris"}', '"input": "{}"'), ("messages_use_tools",)),
    (
        "leaves the search to the client",
        text('"stop_reason": "max_tokens"', '"stop_reason": "tool_use"'),
        ("messages_never_leave_a_web_search_to_the_client",),
    ),
    (
        "uses tools without saying so",
        text('"stop_reason": "tool_use"', '"stop_reason": "end_turn"'),
        ("messages_use_tools", "message_streams_use_tools"),
    ),
    ("starts no message", without_events("message_start"), MESSAGE_STREAMS[:1]),
    ("stops no message", without_events("message_stop"), MESSAGE_STREAMS[:1]),
    ("starts no blocks", without_events("content_block_start"), MESSAGE_STREAMS[:1]),
    ("stops no blocks", without_events("content_block_stop"), MESSAGE_STREAMS[:1]),
    ("numbers blocks from one", text('"index": 0', '"index": 1'), MESSAGE_STREAMS[:1]),
    ("mixes deltas", text("text_delta", "thinking_delta"), MESSAGE_STREAMS[:1]),
    ("ends with an estimate", objects(at_end), ("message_streams_end_with_the_true_usage",)),
    ("streams half an input", text('"partial_json": "{', '"partial_json": "'), ("message_streams_use_tools",)),
    ("transcribes to text alone", header("content-type", "text/plain"), ("transcriptions_answers",)),
    ("transcribes to JSON alone", header("content-type", "application/json"), ("transcriptions_may_be_plain_text",)),
    ("transcribes to another key", text('"text"', '"transcript"'), ("transcriptions_answers",)),
)
"""For each: what is wrong, the change, and the checks that differ."""

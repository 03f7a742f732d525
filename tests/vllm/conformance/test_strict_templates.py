"""Conversations that a chat template refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import CHAT, MESSAGES, NO_THINKING, RESPONSES, TOKENIZE, ServerPair

SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hello"}
ASSISTANT = {"role": "assistant", "content": "Hello!"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_TURNS = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([USER], 200),
        ([USER, ASSISTANT, USER], 200),
        ([USER, *TOOL_TURNS, ASSISTANT, USER], 200),
        ([SYSTEM, USER], 400),
        ([USER, SYSTEM, USER], 200),  # the template looks at the first message and at every second one
        ([USER, USER], 400),
        ([ASSISTANT, USER], 400),
    ],
)
def test_a_template_without_a_system_role_refuses_as_the_real_one(
    no_system_pair: ServerPair, messages: list[dict[str, Any]], status: int, path: str
) -> None:
    fields = NO_THINKING if path == TOKENIZE else {**NO_THINKING, "max_tokens": 3}
    real, simulated = no_system_pair.compare_fields(path, messages=messages, **fields)
    assert real.status_code == status
    if status == 400:
        assert real.json() == simulated.json()


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
@pytest.mark.parametrize(
    ("messages", "status"),
    [([SYSTEM, USER], 200), ([SYSTEM, SYSTEM, USER], 400), ([USER, SYSTEM, USER], 200), ([SYSTEM, USER, USER], 400)],
)
def test_a_template_with_one_system_message_refuses_as_the_real_one(
    system_first_pair: ServerPair, messages: list[dict[str, Any]], status: int, path: str
) -> None:
    fields = NO_THINKING if path == TOKENIZE else {**NO_THINKING, "max_tokens": 3}
    real, simulated = system_first_pair.compare_fields(path, messages=messages, **fields)
    assert real.status_code == status
    if status == 400:
        assert real.json() == simulated.json()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"messages": [USER], "system": "be kind"}, 200),
        ({"messages": [SYSTEM, USER]}, 200),
        ({"messages": [SYSTEM, USER], "system": "be kind"}, 400),
        ({"messages": [USER, ASSISTANT, SYSTEM, USER]}, 400),
        ({"messages": [SYSTEM, USER, SYSTEM, USER]}, 200),
    ],
)
def test_system_texts_of_a_message_keep_their_places_where_the_template_takes_them(
    system_first_pair: ServerPair, fields: dict[str, Any], status: int
) -> None:
    """vLLM joins them for a template that refuses a system message after a user's. This one takes it there."""
    real, simulated = system_first_pair.compare_fields(MESSAGES, **fields, **NO_THINKING, max_tokens=3)
    assert real.status_code == status
    if status == 400:
        assert real.json() == simulated.json()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (MESSAGES, {"messages": [USER], "system": "be brief", "max_tokens": 3}),
        (MESSAGES, {"messages": [USER, ASSISTANT, SYSTEM, USER], "max_tokens": 3}),
        (f"{MESSAGES}/count_tokens", {"messages": [USER], "system": "be brief"}),
        (RESPONSES, {"input": [USER], "instructions": "be brief", "max_output_tokens": 3}),
        (RESPONSES, {"input": [USER, USER], "max_output_tokens": 3}),
    ],
)
def test_other_routes_pass_the_templates_refusal_on(
    no_system_pair: ServerPair, path: str, fields: dict[str, Any]
) -> None:
    real, simulated = no_system_pair.compare_fields(path, **fields)
    assert real.status_code == 400
    assert real.json() == simulated.json()

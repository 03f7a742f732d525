"""Conversations that a chat template refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import CHAT, NO_THINKING, TOKENIZE, ServerPair

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

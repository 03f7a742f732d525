from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.anthropic import conversation, prompt
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.workers.registry.record import ModelInfo

PNG = "iVBORw0KGgoAAAAN"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SEEN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
TEXT = {"type": "text", "text": "a"}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
CALLED = {"id": "t1", "function": {"name": "f", "arguments": '{"a": 1}'}, "type": "function"}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "r"}
STRICT = ModelInfo(name="strict", template="{{ system }} {{ tools }} {{ raise_exception('roles must alternate') }}")
ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."
NO_SYSTEM = "System role not supported"


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def decoded(messages: list[dict[str, Any]], **fields: Any) -> Any:
    body = {"model": "m", "max_tokens": 50, "messages": messages, **fields}
    return prompt.decode_message(json.dumps(body).encode())


def chat(messages: list[dict[str, Any]], system: Any = None) -> Any:
    """Return the chat, and check that its way back leads to the same chat."""
    request = decoded(messages, system=system)
    found = conversation.as_chat(request.system, request.messages)
    assert conversation.as_chat(None, conversation.from_chat(found)) == found
    return json.loads(api.encode(found))


def adapted(messages: list[dict[str, Any]], *texts: str, info: ModelInfo = STRICT, **fields: Any) -> Any:
    """Return the body after refusals, latest last."""
    plan = ModelPlan(info, NO_DEFAULTS, sampling, translated_defaults)
    refusals = [AttemptFailed(text, status=400) for text in texts]
    step = prompt.adapt(decoded(messages, **fields), plan, *refusals)
    return None if step is None else json.loads(outgoing(step).body)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(TEXT)], [{"role": "user", "content": "a"}]),
        ([{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}]),
        ([user(TEXT, IMAGE)], [{"role": "user", "content": [TEXT, SEEN]}]),
        (
            [assistant({"type": "thinking", "thinking": "h"}, TEXT, CALL), user(RESULT, TEXT)],
            [
                {"role": "assistant", "content": "a", "reasoning": "h", "tool_calls": [CALLED]},
                {"role": "tool", "content": "r", "tool_call_id": "t1"},
                {"role": "user", "content": "a"},
            ],
        ),
        (
            [assistant(CALL), user({**RESULT, "content": [TEXT, IMAGE, TEXT]})],
            [
                {"role": "assistant", "tool_calls": [CALLED]},
                {"role": "tool", "content": "a\na", "tool_call_id": "t1"},
                {"role": "user", "content": [SEEN]},
            ],
        ),
        (
            [{"role": "system", "content": [TEXT, TEXT]}, user(TEXT)],
            [{"role": "system", "content": "aa"}, {"role": "user", "content": "a"}],
        ),
    ],
)
def test_a_conversation_is_the_chat_that_vllm_makes_of_it(messages: list[dict[str, Any]], expected: Any) -> None:
    assert chat(messages) == expected


def test_the_system_text_comes_first_without_the_clients_billing() -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1"}
    for system in ("aa", [TEXT, TEXT], [billing, TEXT, TEXT]):
        assert chat([user(TEXT)], system)[0] == {"role": "system", "content": "aa"}
    assert chat([user(TEXT)], [billing])[0]["role"] == "user"


def test_neighbours_of_one_role_are_joined_for_a_template_that_refuses_them() -> None:
    messages = [user(TEXT), user(TEXT), {"role": "system", "content": "late"}]
    body = adapted(messages, ALTERNATE, system="first")
    assert "system" not in body
    assert body["messages"] == [
        {"role": "system", "content": "first\n\nlate"},
        {"role": "user", "content": "a\n\na"},
    ]


def test_the_system_text_goes_to_the_user_for_a_template_without_that_role() -> None:
    assert adapted([user(TEXT)], NO_SYSTEM, system="s")["messages"] == [{"role": "user", "content": "s\n\na"}]


def test_a_missing_turn_after_a_tool_result_is_inserted_empty() -> None:
    messages = adapted([user(TEXT), assistant(CALL), user(RESULT, TEXT)], ALTERNATE)["messages"]
    result = {**RESULT, "content": [{"type": "text", "text": "r"}]}
    assert messages[2:] == [user(result), {"role": "assistant", "content": ""}, {"role": "user", "content": "a"}]


def test_a_form_stays_when_something_else_is_refused_afterwards() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    refused = "thinking_token_budget is set but reasoning_config is not configured."
    info = ModelInfo(name="x", template=STRICT.template, undetected=("thinking",))
    first = adapted([user(TEXT)], NO_SYSTEM, info=info, system="s", max_tokens=4000, thinking=thinking)
    both = adapted([user(TEXT)], NO_SYSTEM, refused, info=info, system="s", max_tokens=4000, thinking=thinking)
    assert first["thinking"] == thinking
    assert both == {name: value for name, value in first.items() if name != "thinking"}


def test_a_conversation_without_another_form_is_not_sent_again() -> None:
    assert adapted([user(TEXT)], ALTERNATE) is None
    assert adapted([user(TEXT), user(TEXT)], ALTERNATE, "another refusal") is None
    assert adapted([user(TEXT)], "temperature must be non-negative", info=THINKER) is None

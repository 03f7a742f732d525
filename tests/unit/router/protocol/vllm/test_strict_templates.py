"""Conversations that a chat template refuses, and the form that it may accept."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.protocol import CLOCK, MODEL, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import AttemptFailed, Faulty, Refused
from vllama_pool.router.protocol.ollama import chat, generate
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.registry.record import ModelInfo

SYSTEM_FIRST = "{% if messages[0].role == 'system' %}{% endif %}{{ raise_exception('roles must alternate') }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TOOLS = SYSTEM_FIRST + "{% if message.role == 'tool' %}{% endif %}"
USER_ONLY = "{{ raise_exception('Conversation roles must alternate') }}"
ALTERNATE = Refused("Conversation roles must alternate user/assistant/user/assistant/...", status=400)
UNSUPPORTED = Refused("System role not supported", status=400)
TOO_LONG = Refused(CONTEXT_EXCEEDED, status=400)
PNG = "iVBORw0KGgoAAAAN"


def adapted(
    *messages: dict[str, Any], template: str = SYSTEM_FIRST, refusals: tuple[AttemptFailed, ...] = (ALTERNATE,)
) -> NextStep | None:
    request = decode_chat(json.dumps({"model": "m", "messages": messages}).encode())
    return chat.adapt(
        request, ModelPlan(msgspec.structs.replace(MODEL, template=template), NO_DEFAULTS), CLOCK, *refusals
    )


def sent(*messages: dict[str, Any], **fields: Any) -> Any:
    step = adapted(*messages, **fields)
    assert step is not None
    return json.loads(outgoing(step).body)["messages"]


def of(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def user(text: str, **fields: Any) -> dict[str, Any]:
    return of("user", text, **fields)


def system(text: str) -> dict[str, Any]:
    return of("system", text)


def assistant(text: str, **fields: Any) -> dict[str, Any]:
    return of("assistant", text, **fields)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("a"), system("s"), user("b")], [system("s"), user("a\n\nb")]),
        ([system("s"), system("t"), user("a")], [system("s\n\nt"), user("a")]),
        ([user("a"), user(""), user("b")], [user("a\n\nb")]),
        ([assistant("hello"), user("a")], [user(""), assistant("hello"), user("a")]),
        ([user("a"), assistant("x"), assistant("y"), user("b")], [user("a"), assistant("x\n\ny"), user("b")]),
        ([user("a"), of("developer", "d")], [system("d"), user("a")]),
        ([system("s"), user("a")], [user("s\n\na")]),
        ([system("s")], [user("s")]),
        ([system("s"), system("t")], [user("s\n\nt")]),
        ([system("s"), assistant("x")], [system("s"), user(""), assistant("x")]),
    ],
)
def test_system_texts_are_gathered_and_neighbours_of_one_role_are_joined(messages: Any, expected: Any) -> None:
    assert sent(*messages) == expected


@pytest.mark.parametrize(
    ("template", "refusal"),
    [
        (NO_SYSTEM, ALTERNATE),
        (USER_ONLY, ALTERNATE),
        ("", ALTERNATE),
        ("", UNSUPPORTED),
        ("", Refused("Only user and assistant roles are supported!", status=400)),
        ("", Refused("This model does not support a system prompt", status=400)),
        ("", Refused("The system role is not allowed", status=400)),
        (NO_SYSTEM, Faulty("Internal Server Error", status=500)),
    ],
)
def test_without_a_system_role_the_text_precedes_the_first_user_message(template: str, refusal: AttemptFailed) -> None:
    messages = [user("a"), assistant("x"), system("s"), user("b"), system("t")]
    assert sent(*messages, template=template, refusals=(refusal,)) == [
        user("s\n\nt\n\na"),
        assistant("x"),
        user("b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
        "System message must be at the beginning.",
        "Only user and assistant roles are supported, with the exception of an initial optional system message!",
    ],
)
def test_an_unknown_template_that_names_the_system_message_gets_one(text: str) -> None:
    refusals = (Refused(text, status=400),)
    assert sent(user("a"), system("s"), user("b"), template="", refusals=refusals) == [system("s"), user("a\n\nb")]


def test_tool_calls_results_and_their_ids_survive() -> None:
    calls = [{"id": f"c{number}", "function": {"name": "f", "arguments": {"n": number}}} for number in (1, 2)]
    results = [of("tool", text, tool_call_id=f"c{number}", tool_name="f") for number, text in ((1, "x"), (2, "y"))]
    first, second = (assistant(text, tool_calls=[call]) for text, call in zip(("look", ""), calls, strict=True))
    messages = sent(user("a"), first, second, *results, user("b"), system("s"), user("c"), template=TOOLS)
    roles = ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    assert [message["role"] for message in messages] == roles
    kept = [(call["id"], json.loads(call["function"]["arguments"])) for call in messages[2]["tool_calls"]]
    assert kept == [("c1", {"n": 1}), ("c2", {"n": 2})]
    assert messages[2]["content"] == "look"
    assert [(message["tool_call_id"], message["content"]) for message in messages[3:5]] == [("c1", "x"), ("c2", "y")]
    assert [message["content"] for message in messages[5:]] == ["", "b\n\nc"]


CALLED = [
    user("a"),
    assistant("look", tool_calls=[{"id": "call_1", "function": {"name": "f", "arguments": {"n": 1}}}]),
    of("tool", "x", tool_call_id="call_1"),
    assistant("done"),
    user("b"),
]


@pytest.mark.parametrize("template", [SYSTEM_FIRST, NO_SYSTEM, ""])
def test_a_template_without_tools_gets_calls_and_results_as_text(template: str) -> None:
    assert sent(*CALLED, template=template) == [
        user("a"),
        assistant('look\n\nf({"n": 1})'),
        user("x"),
        assistant("done"),
        user("b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Tool call IDs should be alphanumeric strings with length 9!",
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    ],
)
def test_ids_of_tool_calls_get_nine_characters(text: str) -> None:
    refusals = (Refused(text, status=400),)
    messages = sent(*CALLED, template=TOOLS, refusals=refusals)
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == "000000000"
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert sent(system("s"), system("t"), *CALLED, template=TOOLS, refusals=refusals)[1:] == messages


def test_images_go_without_a_system_message_where_the_template_wants_it() -> None:
    refusals = (Refused("Prompting with images is incompatible with system messages.", status=400),)
    for template in ("", SYSTEM_FIRST):
        [message] = sent(system("s"), user("a", images=[PNG]), template=template, refusals=refusals)
        assert [part["type"] for part in message["content"]] == ["text", "image_url", "text"]


@pytest.mark.parametrize(
    "failure",
    [
        Faulty("Internal Server Error", status=500),
        Faulty("System role not supported", status=500),
        Refused("System role not supported None", status=400),
        Faulty("jinja2.exceptions.TemplateError: System role not supported", status=500),
    ],
)
def test_what_other_releases_of_vllm_answer_is_taken_for_a_refusal(failure: AttemptFailed) -> None:
    assert sent(system("s"), user("a"), template=NO_SYSTEM, refusals=(failure,)) == [user("s\n\na")]


def test_images_and_thinking_survive() -> None:
    messages = sent(
        *[user("a"), user("look", images=[PNG]), user("b")],
        *[assistant("x", thinking="t"), assistant("y", thinking="u"), user("c"), system("s")],
        template=NO_SYSTEM,
    )
    kinds = [(part["type"], part.get("text")) for part in messages[0]["content"]]
    assert kinds == [("text", "s\n\na"), ("image_url", None), ("text", "look\n\nb")]
    assert messages[1] == {"role": "assistant", "content": "x\n\ny", "reasoning": "t\n\nu"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([of("system", "s", images=[PNG]), user("a")], [system("s"), user("IMAGE a")]),
        ([of("system", "s", images=[PNG]), system("t"), user("")], [system("s\n\nt"), user("IMAGE")]),
        ([of("system", "", images=[PNG]), user("a", images=[PNG])], [user("IMAGE IMAGE a")]),
        ([assistant("x"), of("system", "s", images=[PNG]), user("a")], [system("s"), user("IMAGE"), "x", user("a")]),
        ([of("system", "s", images=[PNG]), system("t")], [user("IMAGE s\n\nt")]),
    ],
)
def test_images_of_system_messages_go_to_the_first_user_message(messages: Any, expected: Any) -> None:
    refusal = Refused("System message cannot contain images.", status=400)

    def shown(content: str | list[dict[str, Any]]) -> str:
        parts = [{"text": content}] if isinstance(content, str) else content
        return " ".join(part.get("text", "IMAGE") for part in parts)

    found = [(message["role"], shown(message["content"])) for message in sent(*messages, refusals=(refusal,))]
    wanted = [assistant(each) if isinstance(each, str) else each for each in expected]
    assert found == [(each["role"], each["content"]) for each in wanted]


def test_an_open_end_stays_open() -> None:
    step = adapted(user("a"), user("b"), assistant("x"), assistant("Once"))
    assert step is not None
    body = json.loads(outgoing(step).body)
    assert (body["messages"][-1], body["continue_final_message"]) == (assistant("x\n\nOnce"), True)


@pytest.mark.parametrize(
    ("messages", "refusals"),
    [
        ([user("a")], (ALTERNATE,)),
        ([user("a"), assistant("x"), user("b")], (ALTERNATE,)),
        ([user("a"), user("b")], (ALTERNATE, UNSUPPORTED)),
        ([user("a"), user("b")], (Refused("no such model", status=404),)),
        ([user("a"), user("b")], (Faulty("crashed", status=500),)),
    ],
    ids=["one message", "in turn", "refused again", "not found", "a fault"],
)
def test_nothing_else_is_sent_a_second_time(messages: Any, refusals: Any) -> None:
    assert adapted(*messages, refusals=refusals) is None


@pytest.mark.parametrize("refusals", [(TOO_LONG, ALTERNATE), (ALTERNATE, TOO_LONG)])
def test_a_shortened_conversation_is_joined_and_keeps_its_system_text(refusals: Any) -> None:
    messages = [system("s"), *[user("old"), assistant("x")] * 20, user("a"), user("b")]
    step = adapted(*messages, template=NO_SYSTEM, refusals=refusals)
    for _ in range(10):
        if not isinstance(step, PreflightRequest):
            break
        counted = json.loads(step.body)["messages"]
        assert counted[0]["content"].startswith("s\n\n")
        step = step.then(json.dumps({"count": 100 if len(counted) < 5 else 3000, "max_model_len": 2048}).encode())
    assert step is not None
    assert json.loads(outgoing(step).body)["messages"] == [user("s\n\nold"), assistant("x"), user("a\n\nb")]


def generated(template: str = NO_SYSTEM, **fields: Any) -> NextStep | None:
    request = decode_generate(json.dumps({"model": "m", "prompt": "a", "system": "s"} | fields).encode())
    info: ModelInfo = msgspec.structs.replace(MODEL, template=template)
    return generate.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, UNSUPPORTED)


def test_the_system_text_of_generate_precedes_the_prompt() -> None:
    step = generated()
    assert step is not None
    assert json.loads(outgoing(step).body)["messages"] == [user("s\n\na")]
    for fields in ({"context": [1]}, {"_debug_render_only": True}):
        step = generated(**fields)
        assert isinstance(step, PreflightRequest)
        assert json.loads(step.body)["messages"] == [user("s\n\na")]
    assert generated(raw=True, system="") is None


def test_a_rendered_chat_is_joined_too() -> None:
    messages = [user("a"), user("b")]
    body = json.dumps({"model": "m", "messages": messages, "_debug_render_only": True})
    step = chat.adapt(decode_chat(body.encode()), ModelPlan(MODEL, NO_DEFAULTS), CLOCK, ALTERNATE)
    assert isinstance(step, PreflightRequest)
    assert (step.path, json.loads(step.body)["messages"]) == ("/tokenize", [user("a\n\nb")])

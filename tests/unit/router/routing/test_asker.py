"""Traits of requests of all protocols."""

from typing import Any

import httpx
import msgspec
import pytest

from tests.support.operations import REQUESTS, Request
from vllama_pool.router.protocol.anthropic.prompt import decode_message
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.openai.requests import CHAT, COMPLETION
from vllama_pool.router.protocol.openai.responses.call import decode as decode_response
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.routing.asker import Asker

SYSTEM, FIRST = "You are Mario.", "Where is the castle?"


def encoded(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


def messages(*more: tuple[str, Any]) -> list[dict[str, Any]]:
    turns = [("system", SYSTEM), ("user", FIRST), *more]
    return [{"role": role, "content": content} for role, content in turns]


TEXT_BLOCKS = [{"type": "text", "text": FIRST}]
OPENINGS = {
    "Ollama's chat": decode_chat(encoded(messages=messages())),
    "Ollama's generate": decode_generate(encoded(system=SYSTEM, prompt=FIRST)),
    "OpenAI's chat": CHAT.decode(encoded(messages=messages())),
    "OpenAI's chat with parts": CHAT.decode(
        encoded(messages=[{"role": "developer", "content": SYSTEM}, {"role": "user", "content": TEXT_BLOCKS}])
    ),
    "a response's text": decode_response(encoded(instructions=SYSTEM, input=FIRST)),
    "a response's items": decode_response(encoded(input=messages())),
    "a message": decode_message(encoded(max_tokens=1, system=SYSTEM, messages=messages()[1:])),
    "a message with blocks": decode_message(
        encoded(
            max_tokens=1,
            system=[{"type": "text", "text": "x-anthropic-billing-header: 7"}, {"type": "text", "text": SYSTEM}],
            messages=[{"role": "user", "content": TEXT_BLOCKS}],
        )
    ),
}


@pytest.mark.parametrize("name", OPENINGS)
def test_a_conversation_is_known_by_its_system_text_and_first_user_message_in_every_protocol(name: str) -> None:
    expected = Asker(OPENINGS["Ollama's chat"]).conversation
    assert len(expected) == 32
    assert Asker(OPENINGS[name]).conversation == expected


def test_later_turns_do_not_change_a_conversation_and_other_openings_do() -> None:
    first = Asker(CHAT.decode(encoded(messages=messages()))).conversation
    later = CHAT.decode(encoded(messages=messages(("assistant", "In the west."), ("user", "Which one?"))))
    assert Asker(later).conversation == first
    assert Asker(CHAT.decode(encoded(messages=messages()[1:]))).conversation != first
    assert Asker(CHAT.decode(encoded(messages=[{"role": "user", "content": SYSTEM + FIRST}]))).conversation != first


@pytest.mark.parametrize("name", ["X-Session-Id", "x-conversation-id", "X-OpenWebUI-Chat-Id"])
def test_a_header_names_the_conversation(name: str) -> None:
    headers = {name.lower().encode(): b" c7 "}
    assert Asker(OPENINGS["Ollama's chat"], headers).conversation == "c7"


@pytest.mark.parametrize("request_", [COMPLETION.decode(encoded()), decode_chat(encoded(messages=[]))])
def test_a_request_without_texts_has_the_users_conversation(request_: object) -> None:
    assert Asker(request_, key="app").conversation == "app"


@pytest.mark.parametrize(
    "request_",
    [
        CHAT.decode(encoded(user="u1", messages=messages())),
        decode_response(encoded(user="u1", input="hi")),
        decode_message(encoded(max_tokens=1, messages=messages(), metadata={"user_id": "u1"})),
        decode_message(encoded(max_tokens=1, messages=messages(), metadata={"user_id": "u1_session_5d0a"})),
    ],
)
def test_a_body_names_the_user(request_: object) -> None:
    asker = Asker(request_, {b"x-user-id": b"u2"}, key="app", client="10.0.0.1")
    assert asker.user == asker.identity("user") == "u1"


@pytest.mark.parametrize("metadata", [None, 3, [], {}, {"user_id": None}, {"user_id": 3}])
def test_metadata_without_a_user_names_none(metadata: object) -> None:
    request = decode_message(encoded(max_tokens=1, messages=messages(), metadata=metadata))
    assert Asker(request, key="app").user == "app"


def test_without_a_user_in_the_body_a_header_the_key_or_the_address_stands_for_it() -> None:
    request = OPENINGS["Ollama's chat"]
    headers = {b"x-openwebui-user-id": b"u3", b"x-user-id": b"u4"}
    assert Asker(request, headers, key="app", client="10.0.0.1").user == "u3"
    assert Asker(request, {b"x-user-id": b"u4"}, key="app").user == "u4"
    assert Asker(request, key="app", client="10.0.0.1").user == "app"
    assert Asker(request, client="10.0.0.1").user == "10.0.0.1"
    assert Asker(request).user == ""


def test_identities_are_the_traits_that_rules_name() -> None:
    asker = Asker(OPENINGS["Ollama's chat"], {b"x-team": b"red"}, key="app", client="10.0.0.1")
    assert [asker.identity(by) for by in ("key", "client", "header:X-Team", "header:X-None")] == [
        *("app", "10.0.0.1", "red", "")
    ]
    assert Asker(None, client="10.0.0.1").identity("key") == "10.0.0.1"


def test_the_digest_of_a_long_opening_covers_its_begin() -> None:
    long = ["x" * 20_000 + end for end in ("a", "b")]
    first, second = (Asker(decode_generate(encoded(prompt=text))).conversation for text in long)
    assert first == second


def decoded(request: Request) -> Any:
    operation = next(each for each in operations(SystemClock()) if each.path == request.path)
    sent = httpx.Request("POST", "http://router", **request.content("m"))
    if operation.decode_form is not None and request.hears:
        return operation.decode_form(sent.headers["content-type"], sent.read())
    return operation.decode(sent.read())


@pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))
def test_every_operations_requests_have_a_user_and_a_conversation(request_: Request) -> None:
    first, second = (Asker(decoded(request_), client="10.0.0.1") for _ in range(2))
    assert first.user == "10.0.0.1"
    assert first.conversation
    assert first.conversation == second.conversation
    has_texts = {"messages", "prompt", "input"} & request_.fields.keys() and not request_.embeds
    assert (first.conversation != "10.0.0.1") == bool(has_texts) or request_.embeds

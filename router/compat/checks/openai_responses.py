"""OpenAI's responses: requests and whole answers."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.chat import ANSWERED, QUESTION, WEATHER
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.generate import SCHEMA
from vllama_pool.router.compat.checks.images import PICTURE
from vllama_pool.router.compat.checks.v1_requests import RESPONSES, ask, counts, refused, whole
from vllama_pool.router.compat.expect import Skipped, expect, field, objects, parsed, same
from vllama_pool.router.compat.server import CheckedServer

LONGER: dict[str, Any] = {"max_output_tokens": 96}
ROOM: dict[str, Any] = {"max_output_tokens": 256}
STATUSES = ("completed", "incomplete")
"""Ollama calls an answer that was cut off completed, OpenAI incomplete."""
TOOL = {"type": "function", "strict": None, **WEATHER["function"]}
CALL = {"type": "function_call", "call_id": "call_a1", "name": "get_weather", "arguments": '{"city": "Paris"}'}
RESULT = {"type": "function_call_output", "call_id": "call_a1", "output": ANSWERED}
ASKED = {"role": "user", "content": QUESTION["content"]}
HELLO = {"role": "user", "content": "Say hello to me."}


async def items(server: CheckedServer, *, use: str = "", **fields: Any) -> list[dict[str, Any]]:
    """The items of a whole answer."""
    return output(await whole(server, RESPONSES, use=use, **fields))


def output(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Require a finished response, and return its items."""
    same("object", "response", field(found, "object", str))
    finished = field(found, "status", str)
    expect(finished in STATUSES, "status completed or incomplete", finished)
    expect(found.get("error") is None, "no error", found.get("error"))
    items = objects(found, "output")
    expect(items, "some output", found)
    for item in items:
        expect(field(item, "id", str), "an id for each item", item)
        field(item, "type", str)
    return items


def of_type(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in items if item["type"] == kind]


def text(items: list[dict[str, Any]]) -> str:
    """The text of the messages."""
    found = ""
    for item in of_type(items, "message"):
        same("role", "assistant", field(item, "role", str))
        for part in objects(item, "content"):
            same("type", "output_text", field(part, "type", str))
            found += field(part, "text", str)
            field(part, "annotations", list)
    return found


def reasoning(items: list[dict[str, Any]]) -> str:
    """The text of reasoning items: a summary in Ollama, or their content."""
    parts = [
        part for item in of_type(items, "reasoning") for key in ("summary", "content") for part in objects(item, key)
    ]
    return "".join(field(part, "text", str) for part in parts)


@covers(32, 118)
async def responses_answers(server: CheckedServer) -> None:
    found = await whole(server, RESPONSES)
    expect(field(found, "id", str).startswith("resp_"), "an id like resp_…", found["id"])
    expect(field(found, "created_at", int) > 0, "created_at in seconds", found["created_at"])
    counts(field(found, "usage", dict), "input_tokens", "output_tokens")
    answer = output(found)
    expect(text(answer) or reasoning(answer), "some text", answer)


@covers(118)
async def max_output_tokens_bounds_a_response(server: CheckedServer) -> None:
    found = await whole(server, RESPONSES, max_output_tokens=16)
    tokens = counts(field(found, "usage", dict), "input_tokens", "output_tokens")
    expect(tokens <= 16, "at most 16 output_tokens", tokens)


def accepts(name: str, use: str = "chat", **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        await items(server, use=use, **fields)

    return Check(frozenset({118}), f"responses accepts {name}", run)


PARTS = [{"type": "input_text", "text": "Say hello"}, {"type": "input_text", "text": "to me."}]
EARLIER = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "A greeting."}],
    "encrypted_content": "A greeting.",
}
SEARCHED = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
ACCEPTED = (
    accepts("messages by role", input=[HELLO]),
    accepts("messages by type", input=[{"type": "message", **HELLO}]),
    accepts("texts in parts", input=[{"role": "user", "content": PARTS}]),
    accepts("earlier answers", input=[HELLO, EARLIER, HELLO]),
    accepts("earlier reasoning", input=[HELLO, THOUGHT, EARLIER, HELLO]),
    accepts("earlier searches", input=[HELLO, SEARCHED, EARLIER, HELLO]),
    accepts("earlier calls", "tools", input=[ASKED, CALL, RESULT], tools=[TOOL]),
    accepts("instructions", instructions="Be brief."),
    accepts("parameters", top_p=0.9, store=False, include=[], truncation="disabled", metadata={"a": "b"}),
)


def refuses(name: str, *words: str, **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        refused(RESPONSES, await ask(server, RESPONSES, **fields), 400, *words)

    return Check(frozenset({118}), f"responses refuses {name}", run)


def content(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


REFUSED = (
    refuses("items of an unknown type", "riddle", input=[{"type": "riddle", "text": "x"}]),
    refuses("files", "file inputs are not currently supported", input=content(type="input_file", file_data="eA==")),
    refuses(
        "images by URL",
        "image URLs are not currently supported",
        input=content(type="input_image", detail="auto", image_url="https://example.com/x.png"),
    ),
    refuses("an input of the wrong type", input=5),
    refuses("an unknown effort", reasoning={"effort": "enormous"}),
)


@covers(118)
async def responses_accepts_images(server: CheckedServer) -> None:
    picture = {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PICTURE}"}
    await items(server, use="vision", input=[{"role": "user", "content": [*PARTS, picture]}])


@covers(118)
async def responses_follow_a_schema(server: CheckedServer) -> None:
    format_ = {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA, "strict": True}}
    found = await whole(server, RESPONSES, input="Say in JSON whether 1 is 1: is it ok?", text=format_, **ROOM)
    answer = text(output(found))
    whole_answer = counts(field(found, "usage", dict), "input_tokens", "output_tokens") < ROOM["max_output_tokens"]
    expect(answer.lstrip().startswith("{") or not whole_answer, "a JSON object", answer)
    if whole_answer:
        same("keys", ["ok"], list(parsed(answer.encode())))


@covers(118)
async def responses_think_in_items_of_their_own(server: CheckedServer) -> None:
    found = await items(server, use="thinking", reasoning={"effort": "low"}, **LONGER)
    expect(reasoning(found), "a reasoning item", found)
    same("first item", "reasoning", found[0]["type"])
    expect("<think>" not in text(found), "no thinking in the text", found)


@covers(118)
async def responses_do_not_think_with_an_effort_of_none(server: CheckedServer) -> None:
    found = await items(server, use="thinking", reasoning={"effort": "none"}, **LONGER)
    same("reasoning", "", reasoning(found))
    expect(text(found), "an answer", found)


def is_call(item: dict[str, Any], *names: str) -> None:
    expect(field(item, "call_id", str), "a call_id", item)
    name = field(item, "name", str)
    expect(name in names, f"name {' or '.join(names)}", name)
    arguments = parsed(field(item, "arguments", str).encode())
    expect(isinstance(arguments, dict), "arguments as the text of an object", arguments)


async def calls(server: CheckedServer, tool: dict[str, Any]) -> list[dict[str, Any]]:
    return of_type(await items(server, use="tools", input=[ASKED], tools=[tool], **ROOM), "function_call")


@covers(118)
async def responses_call_functions(server: CheckedServer) -> None:
    found = await calls(server, TOOL)
    if not found:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    for call in found:
        is_call(call, "get_weather")


@covers(118)
async def responses_accept_functions_in_a_namespace(server: CheckedServer) -> None:
    """Ollama puts the namespace before the name. OpenAI has it in a key of its own."""
    group = {"type": "namespace", "name": "city", "description": "Facts of a city.", "tools": [TOOL]}
    for call in await calls(server, group):
        is_call(call, "city.get_weather", "city__get_weather", "get_weather")


@covers(118)
async def responses_never_show_a_web_search_as_a_function(server: CheckedServer) -> None:
    found = await items(server, use="tools", tools=[{"type": "web_search"}])
    called = [item.get("name") for item in of_type(found, "function_call")]
    expect("web_search" not in called, "no call of a function web_search", called)

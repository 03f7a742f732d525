"""Anthropic's messages: requests and whole answers."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.chat import ANSWERED, QUESTION, WEATHER
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.images import PICTURE
from vllama_pool.router.compat.checks.v1_requests import HELLO, MESSAGES, ask, counts, refused, whole
from vllama_pool.router.compat.expect import Skipped, expect, field, json_object, objects, same
from vllama_pool.router.compat.server import CheckedServer

LONGER: dict[str, Any] = {"max_tokens": 96}
ROOM: dict[str, Any] = {"max_tokens": 256}
KINDS = ("thinking", "redacted_thinking", "text", "tool_use", "server_tool_use", "web_search_tool_result")
REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")
TOOL = {
    "name": "get_weather",
    "description": "Tells the weather in a city, now.",
    "input_schema": WEATHER["function"]["parameters"],
}
USED = {"type": "tool_use", "id": "toolu_a1", "name": "get_weather", "input": {"city": "Paris"}}
ANSWER = {"role": "assistant", "content": "Hello."}


async def blocks(server: CheckedServer, *, use: str = "", **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """The blocks of a whole answer, and its stop_reason."""
    found = await whole(server, MESSAGES, use=use, **fields)
    field(found, "content", list)
    content = objects(found, "content")
    for block in content:
        kind = field(block, "type", str)
        expect(kind in KINDS, "a type of Anthropic's", kind)
    reason = field(found, "stop_reason", str)
    expect(reason in REASONS, f"stop_reason {', '.join(REASONS)}", reason)
    return content, reason


def text(content: list[dict[str, Any]], kind: str = "text") -> str:
    """The text of all blocks of a kind."""
    return "".join(field(block, kind, str) for block in content if block["type"] == kind)


def of_type(content: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [block for block in content if block["type"] == kind]


@covers(34, 123)
async def messages_answers(server: CheckedServer) -> None:
    found = await whole(server, MESSAGES)
    same("type", "message", field(found, "type", str))
    same("role", "assistant", field(found, "role", str))
    expect(field(found, "id", str), "an id", found)
    counts(field(found, "usage", dict), "input_tokens", "output_tokens")
    content, _ = await blocks(server)
    expect(text(content) or text(content, "thinking"), "some text", content)


def needs(key: str, *values: Any) -> Check:
    """The request without the key, and with each of these values."""

    async def run(server: CheckedServer) -> None:
        body = {"model": server.model("chat"), **MESSAGES.fields}
        without = {name: value for name, value in body.items() if name != key}
        for fields in (without, *({**body, key: value} for value in values)):
            refused(MESSAGES, await server.post(MESSAGES.path, fields), 400, key)

    return Check(frozenset({120}), f"messages needs {key}", run)


REQUIRED = (needs("model", ""), needs("max_tokens", 0, -1), needs("messages", []))


@covers(120)
async def messages_ignores_anthropics_headers_and_queries(server: CheckedServer) -> None:
    headers = {"x-api-key": "whatever", "anthropic-version": "2023-06-01", "anthropic-beta": "x-2025-01-01"}
    if server.key:
        del headers["x-api-key"]
    body = {"model": server.model("chat"), **MESSAGES.fields}
    found = json_object(await server.send("POST", f"{MESSAGES.path}?beta=true", body, headers=headers))
    same("type", "message", field(found, "type", str))


@covers(120)
async def messages_may_hold_a_system_message(server: CheckedServer) -> None:
    await blocks(server, messages=[HELLO, ANSWER, {"role": "system", "content": "Be brief."}, HELLO])


@covers(121)
async def max_tokens_bounds_a_message(server: CheckedServer) -> None:
    found = await whole(server, MESSAGES, max_tokens=3)
    same("output_tokens", 3, counts(field(found, "usage", dict), "input_tokens", "output_tokens"))
    same("stop_reason", "max_tokens", field(found, "stop_reason", str))


@covers(121)
async def messages_stop_at_a_sequence(server: CheckedServer) -> None:
    quiet: dict[str, Any] = {"thinking": {"type": "disabled"}} if text((await blocks(server))[0], "thinking") else {}
    words = text((await blocks(server, **quiet))[0]).split()
    expect(words, "some words", words)
    stop = words[len(words) // 2]
    found, _ = await blocks(server, stop_sequences=[stop], **quiet)
    expect(stop not in text(found), f"nothing from {stop!r} on", found)


def accepts(rule: int, name: str, use: str = "chat", **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        await blocks(server, use=use, **fields)

    return Check(frozenset({rule}), f"messages accepts {name}", run)


CACHED = {"type": "text", "text": "Say hello to me.", "cache_control": {"type": "ephemeral"}}
THOUGHT = {"type": "thinking", "thinking": "A greeting.", "signature": "c2lnbmVk"}
ASKED = {"role": "user", "content": QUESTION["content"]}


def after_a_call(result: Any) -> list[dict[str, Any]]:
    found = {"type": "tool_result", "tool_use_id": USED["id"], "content": result}
    return [ASKED, {"role": "assistant", "content": [USED]}, {"role": "user", "content": [found]}]


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "weather"}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [{"type": "web_search_result", "title": "x", "url": "https://example.com", "encrypted_content": ""}],
}
ACCEPTED = (
    accepts(121, "parameters", temperature=0.5, top_p=0.9, top_k=20, stop_sequences=["\0"], metadata={"user_id": "u"}),
    accepts(121, "thinking from a model that cannot", "unthinking", thinking={"type": "adaptive"}),
    accepts(121, "an effort", "thinking", output_config={"effort": "xhigh"}),
    accepts(122, "a system text", system="Be brief."),
    accepts(122, "a system text in blocks", system=[{"type": "text", "text": "Be brief."}]),
    accepts(122, "blocks with cache_control", messages=[{"role": "user", "content": [CACHED]}]),
    accepts(122, "earlier thinking", messages=[HELLO, {"role": "assistant", "content": [THOUGHT, CACHED]}, HELLO]),
    accepts(122, "the result of a call", "tools", messages=after_a_call(ANSWERED), tools=[TOOL]),
    accepts(
        122, "a result in blocks", "tools", messages=after_a_call([{"type": "text", "text": ANSWERED}]), tools=[TOOL]
    ),
    accepts(122, "a tool_choice", "tools", tools=[TOOL], tool_choice={"type": "auto"}),
    accepts(
        122, "earlier searches", "tools", messages=[HELLO, {"role": "assistant", "content": [SEARCH, FOUND]}, HELLO]
    ),
)


def refuses(name: str, *content: dict[str, Any], role: str = "user") -> Check:
    async def run(server: CheckedServer) -> None:
        refused(MESSAGES, await ask(server, MESSAGES, messages=[HELLO, {"role": role, "content": list(content)}]), 400)

    return Check(frozenset({122}), f"messages refuses {name}", run)


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


REFUSED = (
    refuses("images by URL", image(type="url", url="https://example.com/x.png")),
    refuses("images that are not base64", image(type="base64", media_type="image/png", data="!!!")),
    refuses("images without a source", {"type": "image"}),
    refuses("a call without an id", {key: USED[key] for key in ("type", "name", "input")}, role="assistant"),
    refuses("a call without a name", {key: USED[key] for key in ("type", "id", "input")}, role="assistant"),
)


@covers(122)
async def messages_accept_images(server: CheckedServer) -> None:
    picture = image(type="base64", media_type="image/png", data=PICTURE)
    await blocks(server, use="vision", messages=[{"role": "user", "content": [picture, CACHED]}])


@covers(121, 123)
async def messages_think_in_blocks_of_their_own(server: CheckedServer) -> None:
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, **LONGER}
    found, _ = await blocks(server, use="thinking", **fields)
    expect(text(found, "thinking"), "a thinking block", found)
    same("first block", "thinking", found[0]["type"])
    expect("<think>" not in text(found), "no thinking in the text", found)


@covers(121)
async def thinking_of_messages_can_be_disabled(server: CheckedServer) -> None:
    found, _ = await blocks(server, use="thinking", thinking={"type": "disabled"}, **LONGER)
    same("thinking", "", text(found, "thinking"))
    expect(text(found), "an answer", found)


@covers(123)
async def messages_use_tools(server: CheckedServer) -> None:
    found, reason = await blocks(server, use="tools", messages=[ASKED], tools=[TOOL], **ROOM)
    used = of_type(found, "tool_use")
    if not used:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    same("stop_reason", "tool_use", reason)
    for block in used:
        expect(field(block, "id", str), "an id", block)
        same("name", "get_weather", field(block, "name", str))
        field(block, "input", dict)


@covers(125)
async def messages_never_leave_a_web_search_to_the_client(server: CheckedServer) -> None:
    """Ollama searches by itself. Without a cloud the tool may be missing."""
    found, reason = await blocks(server, use="tools", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    expect(reason != "tool_use", "another stop_reason than tool_use", reason)
    same("tools to be used", [], of_type(found, "tool_use"))

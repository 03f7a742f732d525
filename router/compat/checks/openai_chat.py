"""OpenAI's chat completions."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.chat import ANSWERED, QUESTION, WEATHER
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.generate import SCHEMA
from vllama_pool.router.compat.checks.images import PICTURE
from vllama_pool.router.compat.checks.v1_requests import CHAT, ask, choice, counts, refused, whole
from vllama_pool.router.compat.event_stream import chunks
from vllama_pool.router.compat.expect import Skipped, expect, field, objects, parsed, same
from vllama_pool.router.compat.server import CheckedServer

LONGER: dict[str, Any] = {"max_tokens": 96}
ROOM: dict[str, Any] = {"max_tokens": 256}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
REASONS = ("stop", "length", "tool_calls")
CALL = {
    "id": "call_a1b2c3d4",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}


async def message(server: CheckedServer, *, use: str = "", **fields: Any) -> tuple[dict[str, Any], str]:
    """The message of a whole answer, and its finish_reason."""
    found = await whole(server, CHAT, use=use, **fields)
    only = choice(found)
    answer = field(only, "message", dict)
    same("role", "assistant", field(answer, "role", str, "message."))
    reason = field(only, "finish_reason", str)
    expect(reason in REASONS, f"finish_reason {', '.join(REASONS)}", reason)
    return answer, reason


def text(part: dict[str, Any], key: str = "content") -> str:
    """A text of a message or delta; null and absent mean none."""
    found = part.get(key)
    expect(found is None or isinstance(found, str), f"{key} as a text or null", found)
    return found or ""


@covers(27, 114)
async def chat_completions_answers(server: CheckedServer) -> None:
    found = await whole(server, CHAT)
    same("object", "chat.completion", field(found, "object", str))
    expect(field(found, "id", str).startswith("chatcmpl-"), "an id like chatcmpl-…", found["id"])
    expect(field(found, "created", int) > 0, "created in seconds", found["created"])
    counts(field(found, "usage", dict), "prompt_tokens", "completion_tokens")
    answer, _ = await message(server)
    expect(text(answer) or text(answer, "reasoning"), "some text", answer)


async def streamed(server: CheckedServer, *, use: str = "", **fields: Any) -> tuple[dict[str, Any], str]:
    """The message that a stream adds up to, and its finish_reason."""
    found = chunks(await ask(server, CHAT, use=use, stream=True, **fields))
    expect(found, "some chunks", found)
    answer: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}}
    reasons: list[Any] = []
    for number, chunk in enumerate(found):
        only = choice(chunk)
        delta = field(only, "delta", dict)
        same("role", "assistant" if number == 0 else None, delta.get("role"))
        for key in ("content", "reasoning"):
            answer[key] += text(delta, key)
            expect(not reasons or not text(delta, key), "no text after the end", delta)
        for call in objects(delta, "tool_calls"):
            add_call(answer["calls"], call)
        reason = only.get("finish_reason")
        reasons += [reason] if reason is not None else []
    same("count of finish_reason", 1, len(reasons))
    expect(reasons[0] in REASONS, f"finish_reason {', '.join(REASONS)}", reasons[0])
    return answer, reasons[0]


def add_call(calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    """Add a part of a call to the call of its index."""
    call = calls.setdefault(field(delta, "index", int), {"arguments": ""})
    function: dict[str, Any] = field(delta, "function", dict) if "function" in delta else {}
    call["arguments"] += text(function, "arguments")
    for key, value in (("id", delta.get("id")), ("type", delta.get("type")), ("name", function.get("name"))):
        if value is not None:
            expect(key not in call or call[key] == value, f"{key} only once", delta)
            call[key] = value


@covers(27, 114)
async def chat_completions_stream_chunks(server: CheckedServer) -> None:
    found = chunks(await ask(server, CHAT, stream=True))
    expect(len(found) >= 2, "several chunks", found)
    for chunk in found:
        same("object", "chat.completion.chunk", field(chunk, "object", str))
        same("model", server.model("chat"), field(chunk, "model", str))
        same("id", found[0].get("id"), field(chunk, "id", str))
        same("created", found[0].get("created"), field(chunk, "created", int))
        expect(chunk.get("usage") is None, "no usage", chunk)
    answer, _ = await streamed(server)
    expect(answer["content"] or answer["reasoning"], "some text", answer)


@covers(114)
async def a_chat_stream_ends_with_its_usage_if_asked(server: CheckedServer) -> None:
    found = chunks(await ask(server, CHAT, stream=True, stream_options={"include_usage": True}))
    expect(len(found) >= 2, "several chunks", found)
    same("choices of the last chunk", [], field(found[-1], "choices", list))
    counts(field(found[-1], "usage", dict), "prompt_tokens", "completion_tokens")
    for chunk in found[:-1]:
        expect(chunk.get("usage") is None, "no usage before the end", chunk)


@covers(114)
async def max_tokens_bounds_a_chat(server: CheckedServer) -> None:
    found = await whole(server, CHAT, max_tokens=3)
    same("completion_tokens", 3, counts(field(found, "usage", dict), "prompt_tokens", "completion_tokens"))
    for _, reason in (await message(server, max_tokens=3), await streamed(server, max_tokens=3)):
        same("finish_reason", "length", reason)


@covers(114)
async def chats_stop_at_a_text_or_a_list_of_them(server: CheckedServer) -> None:
    quiet: dict[str, Any] = {"reasoning_effort": "none"} if text((await message(server))[0], "reasoning") else {}
    words = text((await message(server, **quiet))[0]).split()
    expect(words, "some words", words)
    stop = words[len(words) // 2]
    for value in (stop, [stop], ["\0never\0", stop]):
        answer, _ = await message(server, stop=value, **quiet)
        expect(stop not in text(answer), f"nothing from {stop!r} on", answer)


@covers(114)
async def response_format_gives_json(server: CheckedServer) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    question = {"role": "user", "content": "Say in JSON whether 1 is 1: is it ok?"}
    for format_ in (schema, {"type": "json_object"}):
        answer, reason = await message(server, messages=[question], response_format=format_, **ROOM)
        content = text(answer)
        expect(content.lstrip().startswith("{") or reason == "length", "a JSON object", content)
        if format_ is schema and reason == "stop":
            same("keys", ["ok"], list(parsed(content.encode())))


@covers(114)
async def parameters_that_ollama_ignores_are_accepted(server: CheckedServer) -> None:
    """OpenAI's behaviour wins, so they may have their effect."""
    ignored: dict[str, Any] = {"n": 1, "tool_choice": "none", "logit_bias": {}, "user": "u", "service_tier": "auto"}
    await message(server, **ignored, max_completion_tokens=8, metadata={"a": "b"}, top_p=0.9, presence_penalty=0.1)


@covers(114)
async def content_may_come_in_parts(server: CheckedServer) -> None:
    parts = [{"type": "text", "text": "Say hello"}, {"type": "text", "text": "to me."}]
    await message(server, messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}])


def refuses(name: str, *words: str, **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        refused(CHAT, await ask(server, CHAT, **fields), 400, *words)

    return Check(frozenset({114}), f"chat/completions refuses {name}", run)


def showing(url: str) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]


REFUSED = (
    refuses("no messages", "messages", messages=[]),
    refuses("messages without content", messages=[{"role": "user", "content": None}]),
    refuses("parts of an unknown type", messages=[{"role": "user", "content": [{"type": "smell", "smell": "x"}]}]),
    refuses("images by URL", "image URLs are not currently supported", messages=showing("https://example.com/x.png")),
    refuses("images that are not base64", messages=showing("data:image/png;base64,!!!")),
    refuses("an unknown effort", reasoning_effort="enormous"),
)


@covers(114)
async def chat_completions_accept_images(server: CheckedServer) -> None:
    await message(server, use="vision", messages=showing(f"data:image/png;base64,{PICTURE}"))


@covers(114)
async def chat_logprobs_are_one_entry_per_token(server: CheckedServer) -> None:
    found = await whole(server, CHAT, logprobs=True, top_logprobs=2)
    tokens = counts(field(found, "usage", dict), "prompt_tokens", "completion_tokens")
    logprobs = field(choice(found), "logprobs", dict)
    entries = field(logprobs, "content", list, "logprobs.")
    expect(0 < len(entries) <= tokens, f"up to {tokens} entries", len(entries))
    for entry in entries:
        for key, kind in (("token", str), ("logprob", float), ("bytes", list)):
            field(entry, key, kind)
        expect(0 < len(field(entry, "top_logprobs", list)) <= 2, "up to two alternatives", entry)


@covers(114)
async def chats_without_logprobs_have_none(server: CheckedServer) -> None:
    found = choice(await whole(server, CHAT))
    expect(found.get("logprobs") is None, "no logprobs", found)


@covers(114)
async def thinking_is_in_reasoning(server: CheckedServer) -> None:
    for found, _ in (
        await message(server, use="thinking", reasoning_effort="low", **LONGER),
        await streamed(server, use="thinking", reasoning_effort="low", **LONGER),
    ):
        expect(text(found, "reasoning"), "reasoning", found)
        expect("<think>" not in text(found), "no thinking in the content", found)


@covers(114)
async def an_effort_of_none_turns_thinking_off(server: CheckedServer) -> None:
    for fields in ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}):
        found, _ = await message(server, use="thinking", **fields, **LONGER)
        same("reasoning", "", text(found, "reasoning"))
        expect(text(found), "an answer", found)


@covers(114)
async def every_effort_is_accepted(server: CheckedServer) -> None:
    for effort in EFFORTS:
        await message(server, use="thinking", reasoning_effort=effort)


@covers(114)
async def earlier_calls_and_their_results_are_accepted(server: CheckedServer) -> None:
    """Results need no name. The call's message needs no content."""
    for calling in ({"content": None}, {"content": ""}, {}):
        turns = [QUESTION, {"role": "assistant", **calling, "tool_calls": [CALL]}]
        result = {"role": "tool", "tool_call_id": CALL["id"], "content": ANSWERED}
        await message(server, use="tools", messages=[*turns, result], tools=[WEATHER])


def is_call(call: dict[str, Any]) -> None:
    same("type", "function", call.get("type", ""))
    expect(field(call, "id", str), "an id", call)
    function = call.get("function", call)
    same("name", "get_weather", field(function, "name", str))
    arguments = parsed(field(function, "arguments", str).encode())
    expect(isinstance(arguments, dict), "arguments as the text of an object", arguments)


@covers(114)
async def chats_call_tools(server: CheckedServer) -> None:
    found, reason = await message(server, use="tools", messages=[QUESTION], tools=[WEATHER], **ROOM)
    calls = objects(found, "tool_calls")
    if not calls:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    same("finish_reason", "tool_calls", reason)
    for call in calls:
        is_call(call)


@covers(114)
async def chats_stream_tool_calls(server: CheckedServer) -> None:
    found, reason = await streamed(server, use="tools", messages=[QUESTION], tools=[WEATHER], **ROOM)
    if not found["calls"]:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    same("finish_reason", "tool_calls", reason)
    same("indices", list(range(len(found["calls"]))), sorted(found["calls"]))
    for call in found["calls"].values():
        is_call(call)

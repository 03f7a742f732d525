"""Messages and tools of chat."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.answers import streamed, whole
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.generate import full_name
from vllama_pool.router.compat.expect import Skipped, error, expect, field, json_object, same
from vllama_pool.router.compat.server import SHORT, CheckedServer

HELLO = {"role": "user", "content": "Say hello to me."}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city, now.",
        "parameters": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"city": {"type": ["string"], "description": "The city's name", "minLength": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
QUESTION = {"role": "user", "content": "What is the weather in Paris? Call the tool get_weather."}
CALL = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
ANSWERED = "11 degrees and rain"


async def tokens(server: CheckedServer, **fields: Any) -> int:
    return field(await whole(server, "chat", **fields), "prompt_eval_count", int)


@covers(72)
async def roles_match_in_any_case(server: CheckedServer) -> None:
    plain = await tokens(server, messages=[HELLO])
    same("prompt_eval_count", plain, await tokens(server, messages=[{**HELLO, "role": "USER"}]))


@covers(73)
async def content_may_be_null(server: CheckedServer) -> None:
    await whole(server, "chat", messages=[HELLO, {"role": "assistant", "content": None}, HELLO])


@covers(74)
async def messages_may_carry_thinking(server: CheckedServer) -> None:
    before = {"role": "assistant", "content": "Hello.", "thinking": "They want to be greeted."}
    await whole(server, "chat", messages=[HELLO, before, HELLO])


def history(rules: set[int], name: str, call: dict[str, Any], result: dict[str, Any]) -> Check:
    """A chat with an earlier tool call and its result."""

    async def run(server: CheckedServer) -> None:
        turns = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
        answer = {"role": "tool", "content": ANSWERED, **result}
        await whole(server, "chat", use="tools", messages=[*turns, answer], tools=[WEATHER], think=None)

    return Check(frozenset(rules), name, run)


HISTORIES = (
    history({76, 77}, "a result by the tool's name", CALL, {"tool_name": "get_weather"}),
    history({76, 78}, "a result by the call's id", {"id": "call_a1b2c3d4", **CALL}, {"tool_call_id": "call_a1b2c3d4"}),
    history({78}, "a result by neither", CALL, {}),
)


@covers(79)
async def an_empty_tools_list_means_no_tools(server: CheckedServer) -> None:
    await whole(server, "chat", tools=[])


@covers(79)
async def a_tool_without_a_function_is_accepted(server: CheckedServer) -> None:
    for tool in ({"type": "web_search"}, {"type": "function", "function": None}, {}):
        await whole(server, "chat", use="tools", messages=[HELLO], tools=[tool, WEATHER], think=None)


@covers(216)
async def keys_of_messages_and_calls_may_be_absent(server: CheckedServer) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather"}}]}
    turns = [{"role": "user"}, QUESTION, call, {"role": "tool"}, HELLO]
    for tools in ([{"function": {"name": "get_weather"}}], [{"function": {}}, WEATHER], [{}, WEATHER]):
        await whole(server, "chat", use="tools", messages=turns, tools=tools, think=None)


@covers(214)
async def a_last_message_of_the_assistant_is_continued(server: CheckedServer) -> None:
    begun = "Three words of greeting are"
    turns = [HELLO, {"role": "assistant", "content": begun}]
    found = json_object(await server.chat(messages=turns, _debug_render_only=True))
    prompt = field(field(found, "_debug_info", dict), "rendered_template", str)
    expect(prompt.rstrip().endswith(begun), "a prompt that ends with the message", prompt[-60:])
    await whole(server, "chat", messages=turns)


SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "Hello."}


def order(name: str, *turns: dict[str, Any]) -> Check:
    async def run(server: CheckedServer) -> None:
        await whole(server, "chat", messages=list(turns))

    return Check(frozenset({215}), f"chat with {name}", run)


ORDERS = (
    order("a late system message", HELLO, REPLY, SYSTEM, HELLO),
    order("two system messages", SYSTEM, SYSTEM, HELLO),
    order("two user messages in a row", HELLO, HELLO),
    order("two answers in a row", HELLO, REPLY, REPLY, HELLO),
    order("an answer first", REPLY, HELLO),
    order("a system message alone", SYSTEM),
    order("a system message last", HELLO, SYSTEM),
)


@covers(76)
async def absent_and_null_arguments_of_calls_are_accepted(server: CheckedServer) -> None:
    for function in ({"name": "get_weather"}, {"name": "get_weather", "arguments": None}):
        turns = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]
        answer = {"role": "tool", "content": ANSWERED}
        await whole(server, "chat", use="tools", messages=[*turns, answer], tools=[WEATHER], think=None)


@covers(79, 159)
async def tools_require_a_capable_model(server: CheckedServer) -> None:
    model = server.model("toolless")
    error(await server.chat(use="toolless", tools=[WEATHER]), 400, f"{full_name(model)} does not support tools")


@covers(80)
async def tool_choice_is_ignored(server: CheckedServer) -> None:
    await whole(server, "chat", tool_choice={"type": "nonsense"})


async def called(server: CheckedServer, *, stream: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of an answer, and the tool calls in them. Raises Skipped if there are none."""
    fields: dict[str, Any] = {"messages": [QUESTION], "tools": [WEATHER], "options": {**SHORT, "num_predict": 256}}
    if stream:
        lines = await streamed(server, "chat", use="tools", **fields)
    else:
        lines = [await whole(server, "chat", use="tools", **fields)]
    calls = [call for line in lines for call in field(line, "message", dict).get("tool_calls") or ()]
    if not calls:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    return lines, calls


@covers(79, 81)
async def tool_calls_have_their_shape(server: CheckedServer) -> None:
    for stream in (False, True):
        _, calls = await called(server, stream=stream)
        for index, call in enumerate(calls):
            expect(isinstance(call, dict), "an object for each call", call)
            expect(field(call, "id", str), "an id", call)
            same("keys", ["function", "id"], sorted(call))
            function = field(call, "function", dict)
            same("index", index, field(function, "index", int))
            same("name", "get_weather", field(function, "name", str))
            field(function, "arguments", dict)


@covers(82)
async def tool_calls_are_not_split(server: CheckedServer) -> None:
    _, whole_calls = await called(server, stream=False)
    _, calls = await called(server, stream=True)
    same("count of calls in a stream", len(whole_calls), len(calls))
    for call in calls:
        arguments = field(field(call, "function", dict), "arguments", dict)
        expect("city" in arguments, "the whole arguments", arguments)


@covers(83)
async def a_tool_call_ends_with_done_reason_stop(server: CheckedServer) -> None:
    for stream in (False, True):
        lines, _ = await called(server, stream=stream)
        same("done_reason", "stop", field(lines[-1], "done_reason", str))

"""Requests that show the settings of an entry: with system texts, tools, long prompts and limits on answers."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.fleet.live import Fleet
from tests.support.operations import REQUESTS, Request, is_whole

GENERATED = tuple(request for request in REQUESTS if not (request.embeds or request.counts or request.hears))
CHATS = tuple(request for request in GENERATED if request.path != "/v1/completions")
CALLERS = tuple(request for request in CHATS if request.path != "/api/generate")
WORDS = "one two three four five six seven eight nine ten " * 40
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


class Asked:
    """Sends requests with ids, to find their records."""

    def __init__(self, running: Fleet) -> None:
        self.running = running
        self.count = 0

    async def ask(self, request: Request, model: str, **fields: Any) -> tuple[httpx.Response, dict[str, Any]]:
        """Return the response and the record."""
        self.count += 1
        name = f"r{self.count}"
        content = request.content(model)
        content["json"].update(fields)
        response = await self.running.http.post(request.path, **content, headers={"x-request-id": name})
        return response, await self.running.record(name)

    async def prompt(self, request: Request, model: str, **fields: Any) -> int:
        """Return the tokens of the prompt."""
        response, record = await self.ask(request, model, **fields)
        assert is_whole(request, response), response.text
        return int(record["prompt_tokens"])


def with_system(request: Request, text: str) -> dict[str, Any]:
    """Return the fields of a request with a system text."""
    if request.path == "/api/generate" or request.path == "/v1/messages":
        return {"system": text}
    if request.path == "/v1/responses":
        return {"instructions": text}
    return {"messages": [{"role": "system", "content": text}, *request.fields["messages"]]}


def limits_of(request: Request) -> list[dict[str, Any]]:
    """Return fields that ask for more than the limit on the answer."""
    if request.path.startswith("/api/"):
        return [{}, {"options": {"num_predict": -1}}, {"options": {"num_predict": 30, "seed": 1}}]
    names = {
        "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
        "/v1/responses": ("max_output_tokens",),
    }
    fields: list[dict[str, Any]] = [{name: 30} for name in names.get(request.path, ("max_tokens",))]
    if request.path in ("/v1/chat/completions", "/v1/completions"):
        fields.append({"max_tokens": 30, "min_tokens": 20})
    return fields if request.path == "/v1/messages" else [{}, *fields]


def long(request: Request) -> dict[str, Any]:
    """Return the fields of a prompt beyond the limit."""
    turns = [{"role": role, "content": WORDS} for role in ("user", "assistant")]
    if "messages" in request.fields:
        return {"messages": [*turns, *turns, *request.fields["messages"]]}
    return {"input" if "input" in request.fields else "prompt": WORDS}


def with_tools(request: Request) -> dict[str, Any]:
    if request.path == "/v1/messages":
        return {"tools": [{"name": "weather", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}}
    if request.path == "/v1/responses":
        tools: list[Any] = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
        return {"tools": tools, "tool_choice": "required"}
    tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}]
    return {"tools": tools} if request.path == "/api/chat" else {"tools": tools, "tool_choice": "required"}


def after_a_call(request: Request) -> dict[str, Any]:
    """Return the fields of a conversation with a tool's call and result."""
    question = {"role": "user", "content": "weather?"}
    if request.path == "/v1/messages":
        call = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
        result = {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}
        turns = [question, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        return {"messages": turns}
    if request.path == "/v1/responses":
        made = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'}
        return {"input": [question, made, {"type": "function_call_output", "call_id": "c1", "output": "sunny"}]}
    arguments: Any = {"city": "Rome"} if request.path == "/api/chat" else '{"city":"Rome"}'
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    answer = {"role": "assistant", "content": "", "tool_calls": [called]}
    return {"messages": [question, answer, {"role": "tool", "content": "sunny", "tool_call_id": "c1"}]}


def most(request: Request, tokens: int) -> dict[str, Any]:
    """Return the fields that limit the answer."""
    if request.path.startswith("/api/"):
        return {"options": {"num_predict": tokens}}
    return {"max_output_tokens" if request.path == "/v1/responses" else "max_tokens": tokens}

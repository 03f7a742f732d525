"""PyPI's anthropic, the official client."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
from loop import Answer, answer, serve

TOKENS = 200


class AnthropicPython:
    def __init__(self, url: str, model: str, embedder: str, key: str = "unused") -> None:
        self._settings: dict[str, Any] = {"base_url": url, "api_key": key, "max_retries": 0}
        self._client = anthropic.Anthropic(**self._settings)
        self._model = model
        self._embedder = embedder
        self._stream: Any = None

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._create(_user(question), **options)
        return answer(_text(whole), whole.stop_reason, [whole.usage.input_tokens, whole.usage.output_tokens])

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        events = list(self._create(_user(question), stream=True, **options))
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        last = next(event for event in events if event.type == "message_delta")
        start = events[0].message.usage.input_tokens
        text = "".join(delta.text for delta in deltas if delta.type == "text_delta")
        return answer(text, last.delta.stop_reason, [start, last.usage.output_tokens], len(deltas))

    def events(self, question: str, options: dict[str, Any]) -> Any:
        return [_shape(event) for event in self._create(_user(question), stream=True, **options)]

    def helper(self, question: str, options: dict[str, Any]) -> Any:
        with self._client.messages.stream(**self._settings_of(_user(question), options)) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        return {"text": text, "final": _text(final), "model": final.model, "role": final.role}

    def beta(self, question: str, options: dict[str, Any]) -> Any:
        settings = self._settings_of(_user(question), options)
        system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        return _text(self._client.beta.messages.create(**settings, system=system, betas=["context-1m-2025-08-07"]))

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        reply = self._create(_user(question), tools=_tools(tools), **options)
        return self._after(question, reply, tools, outcome, options)

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        settings = self._settings_of(_user(question), options)
        with self._client.messages.stream(**settings, tools=_tools(tools)) as stream:
            reply = stream.get_final_message()
        return self._after(question, reply, tools, outcome, options)

    def tool_choice(self, question: str, tools: list[Any], choice: Any, options: dict[str, Any]) -> Any:
        settings: dict[str, Any] = {"tools": _tools(tools), "tool_choice": choice}
        whole = self._create(_user(question), **settings, **options)
        with self._client.messages.stream(**self._settings_of(_user(question), options), **settings) as stream:
            streamed = stream.get_final_message()
        replies = (whole, streamed)
        return {
            "whole": _calls(whole),
            "streamed": _calls(streamed),
            "ids": [block.id for reply in replies for block in reply.content if block.type == "tool_use"],
            "reasons": [reply.stop_reason for reply in replies],
        }

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        return _thoughts(self._create(_user(question), thinking=_thinking(on), **options))

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        settings = self._settings_of(_user(question), options)
        with self._client.messages.stream(**settings, thinking=_thinking(on)) as stream:
            return _thoughts(stream.get_final_message())

    def budget(self, question: str, tokens: int, options: dict[str, Any]) -> Any:
        thinking = {"type": "enabled", "budget_tokens": tokens}
        return _thoughts(self._create(_user(question), thinking=thinking, max_tokens=tokens + 100, **options))

    def count_tokens(self, question: str) -> Any:
        return self._client.messages.count_tokens(model=self._model, messages=_user(question)).input_tokens

    def list(self) -> Any:
        return [model.id for model in self._client.models.list()]

    def retrieve(self, name: str) -> Any:
        model = self._client.models.retrieve(name)
        return {"id": model.id, "object": model.type, "created": model.created_at.timestamp()}

    def say(self, question: str, streamed: bool) -> Any:
        if not streamed:
            return _text(self._create(_user(question)))
        with self._client.messages.stream(**self._settings_of(_user(question), {})) as stream:
            return stream.get_final_text()

    def unknown_model(self) -> Any:
        return self._client.messages.create(model="nope", max_tokens=TOKENS, messages=_user("hello")).id

    def unknown_model_elsewhere(self, route: str) -> Any:
        calls = {
            "count_tokens": lambda: self._client.messages.count_tokens(model="nope", messages=_user("hello")),
            "beta": lambda: self._client.beta.messages.create(model="nope", max_tokens=1, messages=_user("hello")),
        }
        return str(calls[route]())

    def stream_of_unknown_model(self) -> Any:
        with self._client.messages.stream(model="nope", max_tokens=TOKENS, messages=_user("hello")) as stream:
            return stream.get_final_text()

    def bad_request(self, fields: dict[str, Any]) -> Any:
        return self._create(_user("hello"), extra_body=fields).id

    def embedding_model_in_chat(self) -> Any:
        return self._client.messages.create(model=self._embedder, max_tokens=1, messages=_user("hello")).id

    def raw(self, question: str, options: dict[str, Any]) -> Any:
        response = self._client.messages.with_raw_response.create(**self._settings_of(_user(question), options))
        parsed = response.parse()
        return {
            "status": response.http_response.status_code,
            "type": response.headers["content-type"],
            "id": response.request_id,
            "header": response.headers["request-id"],
            "text": _text(parsed),
            "parsed_id": parsed._request_id,
        }

    def time_out(self, question: str, options: dict[str, Any], seconds: float) -> Any:
        client = self._client.with_options(timeout=seconds)
        return client.messages.create(**self._settings_of(_user(question), {"max_tokens": 1900, **options})).id

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        async def all_texts() -> list[str]:
            async with anthropic.AsyncAnthropic(**self._settings) as client:
                settings = self._settings_of(_user(question), options)
                messages = await asyncio.gather(*(client.messages.create(**settings) for _ in range(count)))
                return [_text(message) for message in messages]

        return asyncio.run(all_texts())

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        self._stream = self._create(_user(question), stream=True, max_tokens=1900, **options)
        return any(event.type == "message_stop" for event, _ in zip(self._stream, range(3), strict=False))

    def close_stream(self) -> None:
        self._stream.close()

    def _settings_of(self, messages: Any, options: dict[str, Any]) -> dict[str, Any]:
        rest = dict(options)
        extra = {"extra_body": {"temperature": rest.pop("temperature")}} if "temperature" in rest else {}
        return {"model": self._model, "messages": messages, "max_tokens": TOKENS, **extra, **rest}

    def _create(self, messages: Any, **options: Any) -> Any:
        return self._client.messages.create(**self._settings_of(messages, options))

    def _after(self, question: str, reply: Any, tools: Any, outcome: str, options: dict[str, Any]) -> Any:
        blocks = [block.model_dump(exclude_none=True) for block in reply.content]
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": outcome}
            for block in blocks
            if block["type"] == "tool_use"
        ]
        messages = [*_user(question), {"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
        again = self._create(messages, tools=_tools(tools), **options)
        return {"calls": _calls(reply), "reason": reply.stop_reason, "text": _text(again)}


def _user(question: str) -> Any:
    return [{"role": "user", "content": question}]


def _tools(tools: Any) -> Any:
    functions = [tool["function"] for tool in tools]
    return [{"name": f["name"], "description": f["description"], "input_schema": f["parameters"]} for f in functions]


def _thinking(on: bool) -> Any:
    return {"type": "adaptive"} if on else {"type": "disabled"}


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def _calls(message: Any) -> Any:
    return [{"name": block.name, "arguments": block.input} for block in message.content if block.type == "tool_use"]


def _thoughts(message: Any) -> Any:
    thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    return {"thinking": thinking, "text": _text(message)}


def _shape(event: Any) -> str:
    """The event's type, with that of its block or delta."""
    part = getattr(event, "content_block", None) or (event.delta if event.type == "content_block_delta" else None)
    return event.type if part is None else f"{event.type} {part.type}"


if __name__ == "__main__":
    serve(AnthropicPython)

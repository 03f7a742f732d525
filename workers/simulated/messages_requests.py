"""Requests to /v1/messages, and the chats that they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from vllama_pool.workers.simulated.checks import check_sampling, check_stop_sequences
from vllama_pool.workers.simulated.shapes import ChatBody, Shape
from vllama_pool.workers.simulated.validation import load, validate

_ANNOUNCEMENT = "x-anthropic-billing-header"
"""Beginning of system texts that vLLM drops."""


def _not_empty(name: str) -> str:
    if not name:
        raise ValueError("Model is required")
    return name


def _positive(count: int) -> int:
    if count <= 0:
        raise ValueError("max_tokens must be positive")
    return count


class _Block(Shape):
    type: Literal["text", "image", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking"]
    text: str | None = None
    source: dict[str, Any] | None = None
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    content: str | list[dict[str, Any]] | None = None
    thinking: str | None = None


class _Message(Shape):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(Shape):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class _ToolChoice(Shape):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> _ToolChoice:
        if self.type == "tool" and not self.name:
            raise ValueError("tool_choice.name is required when type is 'tool'")
        return self


class _Format(Shape):
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    type: Literal["json_schema"] = "json_schema"


class _OutputConfig(Shape):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Enabled(Shape):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1024)


class _Disabled(Shape):
    type: Literal["disabled"]


class _Adaptive(Shape):
    type: Literal["adaptive"]


_Thinking = Annotated[_Enabled | _Disabled | _Adaptive, Field(discriminator="type")]


class CountRequest(Shape):
    model: Annotated[str, AfterValidator(_not_empty)]
    messages: list[_Message]
    output_config: _OutputConfig | None = None
    system: str | list[_Block] | None = None
    thinking: _Thinking | None = None
    tool_choice: _ToolChoice | None = None
    tools: list[_Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesRequest(CountRequest):
    max_tokens: Annotated[int, AfterValidator(_positive)]
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    @model_validator(mode="after")
    def _check_budget(self) -> MessagesRequest:
        if isinstance(self.thinking, _Enabled) and self.thinking.budget_tokens >= self.max_tokens:
            raise ValueError("thinking.budget_tokens must be less than max_tokens")
        return self


def parse_messages(body: bytes, content_type: str, max_stop: int) -> MessagesRequest:
    """Raises ApiError."""
    data = load(body, content_type)
    check_stop_sequences(data.get("stop_sequences"), max_stop)
    request: MessagesRequest = validate(MessagesRequest, data)
    return request


def parse_count(body: bytes, content_type: str) -> CountRequest:
    """Raises ApiError."""
    request: CountRequest = validate(CountRequest, load(body, content_type))
    return request


def as_chat(request: CountRequest, *, one_system: bool) -> ChatBody:
    """Return the chat that vLLM makes of a request. Raises ApiError.

    `one_system`: the template takes one system message, so that all are joined.
    """
    chat = ChatBody.model_validate(
        {
            "model": request.model,
            "messages": _messages(request, one_system=one_system),
            "chat_template_kwargs": request.chat_template_kwargs,
            **_tools(request),
            **_output(request),
            **(_sampling(request) if isinstance(request, MessagesRequest) else {}),
        }
    )
    check_sampling(chat, chat.max_tokens)
    return chat


def _sampling(request: MessagesRequest) -> dict[str, Any]:
    usage = {"include_usage": True, "continuous_usage_stats": True}
    return {
        "max_tokens": request.max_tokens,
        "max_completion_tokens": request.max_tokens,
        "stop": request.stop_sequences,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stream": request.stream,
        "stream_options": usage if request.stream else None,
    }


def _output(request: CountRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    config = request.output_config
    if config is not None and config.format is not None and config.format.json_schema:
        schema = {"name": "json_schema", "schema": config.format.json_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if config is not None and config.effort is not None:
        fields["reasoning_effort"] = config.effort
    if isinstance(request.thinking, _Disabled):
        fields["reasoning_effort"] = "none"
    return fields


def _tools(request: CountRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.tools is not None:
        fields["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": {"type": "object", **tool.input_schema},
                },
            }
            for tool in request.tools
        ]
    choice = request.tool_choice
    if choice is None:
        return fields
    named = {"type": "function", "function": {"name": choice.name}}
    fields["tool_choice"] = {"auto": "auto", "any": "required", "none": "none", "tool": named}[choice.type]
    fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _messages(request: CountRequest, *, one_system: bool) -> list[dict[str, Any]]:
    system = list(_system_texts(request.system or ""))
    if one_system:
        system += [
            text for message in request.messages if message.role == "system" for text in _system_texts(message.content)
        ]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "".join(system)}] if system else []
    for message in request.messages:
        if message.role == "system":
            text = "" if one_system else "".join(_system_texts(message.content))
            messages += [{"role": "system", "content": text}] if text else []
        elif isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        else:
            messages += _turn(message.role, message.content)
    return messages


def _system_texts(content: str | Sequence[_Block]) -> Iterable[str]:
    texts = [content] if isinstance(content, str) else [block.text or "" for block in content if block.type == "text"]
    return (text for text in texts if text and not text.startswith(_ANNOUNCEMENT))


def _turn(role: str, blocks: Sequence[_Block]) -> list[dict[str, Any]]:
    """Return the results of tools, then the message with the other blocks."""
    results = [_result(block) for block in blocks if block.type == "tool_result"] if role == "user" else []
    message: dict[str, Any] = {"role": role}
    thinking = [block.thinking for block in blocks if block.type == "thinking" and block.thinking is not None]
    if thinking:
        message["reasoning"] = "".join(thinking)
    calls = [_call(block) for block in blocks if block.type == "tool_use"]
    if calls:
        message["tool_calls"] = calls
    parts = [part for block in blocks for part in _parts(block)]
    if parts:
        message["content"] = parts
    return results if role == "user" and not parts else [*results, message]


def _parts(block: _Block) -> list[dict[str, Any]]:
    if block.type == "text" and block.text:
        return [{"type": "text", "text": block.text}]
    if block.type == "image" and block.source:
        return [{"type": "image_url", "image_url": {"url": str(block.source.get("url", "data:"))}}]
    return []


def _call(block: _Block) -> dict[str, Any]:
    function = {"name": block.name or "", "arguments": json.dumps(block.input or {})}
    return {"id": block.id or "call", "type": "function", "function": function}


def _result(block: _Block) -> dict[str, Any]:
    content = block.content or ""
    if not isinstance(content, str):
        content = "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content}

"""The chats that requests to /v1/responses mean."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from vllama_pool.workers.simulated.checks import check_sampling
from vllama_pool.workers.simulated.errors import parameter
from vllama_pool.workers.simulated.responses_requests import ResponsesRequest, TextConfig, check_state
from vllama_pool.workers.simulated.shapes import ChatBody

_UNFINISHED = ("in_progress", "incomplete")
_TEXTS = ("input_text", "output_text", "text", "refusal")


def as_chat(request: ResponsesRequest, *, calls: bool) -> ChatBody:
    """Return the chat that vLLM makes of a request. Raises ApiError.

    `calls`: the server parses calls; otherwise their markup is text.
    """
    check_state(request)
    unfinished = _is_unfinished(request.input)
    chat = ChatBody.model_validate(
        {
            "model": request.model,
            "messages": _messages(request),
            "request_id": request.request_id or f"resp_{secrets.token_hex(8)}",
            "max_tokens": request.max_output_tokens,
            "stream": request.stream,
            "logprobs": request.shows_logprobs,
            "top_logprobs": request.top_logprobs,
            "tools": [_tool(tool) for tool in request.tools if tool.get("type") == "function"] or None,
            "tool_choice": _tool_choice(request) if calls else "none",
            "response_format": _response_format(request.text),
            "reasoning_effort": request.reasoning and request.reasoning.effort,
            "truncate_prompt_tokens": None if request.truncation == "disabled" else -1,
            "continue_final_message": unfinished,
            "add_generation_prompt": not unfinished,
            **{name: getattr(request, name) for name in _SAME},
        }
    )
    check_sampling(chat, chat.max_tokens)
    return chat


_SAME = (
    "include_reasoning",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "chat_template_kwargs",
)
"""Fields that chats have too."""


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool.items() if key in ("name", "description", "parameters")}
    return {"type": "function", "function": function}


def _tool_choice(request: ResponsesRequest) -> Any:
    choice = request.tool_choice
    if not request.tools:
        return "none"
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice if choice in ("auto", "none", "required") else "auto"


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if text.format.type != "json_schema":
        return {"type": text.format.type}
    schema = {"name": text.format.name or "schema", "schema": text.format.schema_}
    return {"type": "json_schema", "json_schema": schema}


def _is_unfinished(items: str | Sequence[dict[str, Any]]) -> bool:
    if isinstance(items, str) or not items:
        return False
    last = items[-1]
    return last.get("type", "message") in ("message", "reasoning") and last.get("status") in _UNFINISHED


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    """An assistant's reasoning, text and calls are one message."""
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    for item in request.input:
        message = _message(item)
        last = messages[-1] if messages else {}
        new = message.keys() - {"role", "tool_calls"}
        if message["role"] == last.get("role") == "assistant" and not new & last.keys():
            calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
            last |= message | ({"tool_calls": calls} if calls else {})
        else:
            messages.append(message)
    return messages


def _message(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or "message"
    if kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    if kind == "reasoning":
        return {"role": "assistant", "reasoning": _text(item.get("content") or item.get("summary") or "")}
    if kind != "message":
        raise parameter(f"Unsupported input item type: {kind}", "input")
    if item["role"] == "assistant":
        return {"role": "assistant", "content": _text(item.get("content") or "")}
    content = item.get("content")
    parts = content if isinstance(content, str) else [_part(part) for part in content or ()]
    return {"role": item["role"], "content": parts}


def _text(content: str | Sequence[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content[:1])


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") in _TEXTS:
        return {"type": "text", "text": part.get("text", "")}
    return {"type": "image_url", "image_url": {"url": part.get("image_url") or ""}}

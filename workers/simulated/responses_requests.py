"""Requests to /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vllama_pool.workers.simulated.errors import ApiError, parameter
from vllama_pool.workers.simulated.shapes import Int64, Shape, Stop
from vllama_pool.workers.simulated.validation import load, validate

LOGPROBS = "message.output_text.logprobs"
_Included = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
]
_Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary",),
    "item_reference": ("id",),
}
"""Fields that each type of input item needs."""


def _checked(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or "message"
    if kind not in _NEEDED:
        raise ValueError(f"Unknown type of input item: {kind}")
    missing = [name for name in _NEEDED[kind] if item.get(name) is None]
    if missing:
        raise ValueError(f"Missing fields: {', '.join(missing)}")
    return item


_Item = Annotated[dict[str, Any], AfterValidator(_checked)]


class _Reasoning(Shape):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class _Format(Shape):
    type: Literal["text", "json_schema", "json_object"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Shape):
    format: _Format | None = None
    verbosity: str | None = None


class ResponsesRequest(Shape):
    input: str | list[_Item]
    model: str | None = None
    background: bool | None = False
    include: list[_Included] | None = None
    include_reasoning: bool = True
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = True
    previous_response_id: str | None = None
    reasoning: _Reasoning | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] = "auto"
    store: bool | None = True
    stream: bool | None = False
    temperature: float | None = None
    text: TextConfig | None = None
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = Field(default_factory=list)
    top_logprobs: int | None = 0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    user: str | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: float | None = None
    request_id: str | None = None
    seed: Int64 | None = None
    stop: Stop = None
    ignore_eos: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def shows_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())


def parse_responses(body: bytes, content_type: str) -> ResponsesRequest:
    """Raises ApiError."""
    data = load(body, content_type)
    _check_raw(data)
    request: ResponsesRequest = validate(ResponsesRequest, data)
    return request


def repeated(request: ResponsesRequest) -> dict[str, Any]:
    """Return the fields of the request that its response repeats."""
    return {
        "instructions": request.instructions,
        "metadata": request.metadata,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "tool_choice": request.tool_choice if request.tools else "none",
        "tools": [_shown_tool(tool) for tool in request.tools],
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "background": bool(request.background),
        "max_tool_calls": request.max_tool_calls,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": request.reasoning and {**_REASONING, **request.reasoning.model_dump()},
        "service_tier": request.service_tier,
        "text": _shown_text(request.text),
        "top_logprobs": request.top_logprobs if request.shows_logprobs else None,
        "truncation": request.truncation,
        "user": request.user,
        "presence_penalty": request.presence_penalty or 0.0,
        "frequency_penalty": request.frequency_penalty or 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


_REASONING = dict.fromkeys(("context", "effort", "generate_summary", "mode", "summary"))
_TOOL = dict.fromkeys(
    ("parameters", "strict", "allowed_callers", "async", "defer_loading", "description", "output_schema")
)


def _shown_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**_TOOL, **tool} if tool.get("type") == "function" else tool


def _shown_text(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None:
        return None
    shown: dict[str, Any] | None = None
    if text.format is not None:
        named = text.format.type == "json_schema"
        shown = text.format.model_dump(by_alias=True) if named else {"type": text.format.type}
    return {"format": shown, "verbosity": text.verbosity}


# --- checks ---


def _check_raw(data: dict[str, Any]) -> None:
    if data.get("background") and not data.get("store", True):
        raise parameter("background can only be used when `store` is true", "background")
    if data.get("prompt") is not None:
        raise parameter("prompt template is not supported", "prompt")
    tools = data.get("tools") or ()
    choice = data.get("tool_choice", "auto")
    if choice == "required" and not tools:
        raise parameter("Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
        if not choice.get("name") or choice["name"] not in names:
            raise parameter("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")


def check_state(request: ResponsesRequest) -> None:
    """Refuse what needs stored responses, which vLLM does not store by default. Raises ApiError."""
    if request.background:
        raise ApiError(
            "This vLLM engine does not support `store=True` and therefore does not support the background mode. To "
            "enable these features, set the environment variable `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching "
            "the vLLM server.",
            kind="invalid_request_error",
            param="background",
        )
    if request.previous_response_id is not None:
        raise not_found(request.previous_response_id)


def not_found(response_id: str) -> ApiError:
    return ApiError(
        f"Response with id '{response_id}' not found.",
        status=404,
        kind="invalid_request_error",
        param="response_id",
    )

"""Request bodies, validated as in vLLM: the shape (pydantic), then the values."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from vllama_pool.workers.simulated.errors import ApiError, parameter

MAX_STOP_STRINGS = 4
"""$VLLM_MAX_STOP_STRINGS overrides it."""
MAX_LOGPROBS = 20
MAX_SEQUENCES = 16384
MAX_PROMPTS = 1024
_REPORTED_ERRORS = 10
_SHOWN_CHARACTERS = 200

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
TokenIds = list[Annotated[int, Field(ge=0)]]
Stop = str | list[str] | None


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class StreamOptions(_Shape):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class CalledFunction(_Shape):
    name: str
    arguments: str


class ToolCall(_Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(_Shape):
    role: Literal["assistant"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None


class OtherMessage(_Shape):
    role: str
    content: str | list[dict[str, Any]]


def _message_kind(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return "assistant" if role == "assistant" else "other"


Message = Annotated[
    Annotated[AssistantMessage, Tag("assistant")] | Annotated[OtherMessage, Tag("other")],
    Discriminator(_message_kind),
]


class Function(_Shape):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Shape):
    type: Literal["function"] = "function"
    function: Function


class NamedFunction(_Shape):
    name: str


class NamedTool(_Shape):
    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(_Shape):
    name: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(_Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(_Shape):
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Int64 | None = None
    n: int | None = 1
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    stop: Stop = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**63 - 1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    stream_interval: Annotated[int, Field(ge=1)] | None = None


class ChatBody(Sampling):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool = True
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class CompletionRequest(Sampling):
    prompt: TokenIds | list[TokenIds] | str | list[str] | None = None
    n: int = 1
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None


class EmbeddingRequest(_Shape):
    model: str | None = None
    input: TokenIds | list[TokenIds] | str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    use_activation: bool | None = None


class _TokenizeText(_Shape):
    model: str | None = None
    prompt: str
    return_token_strs: bool | None = False


class TokenizeChat(_Shape):
    model: str | None = None
    messages: list[Message]
    tools: list[Tool] | None = None
    return_token_strs: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class DetokenizeRequest(_Shape):
    model: str | None = None
    tokens: TokenIds


class SleepQuery(BaseModel):
    level: Annotated[int, Field(ge=0, le=2)] = 1
    mode: Literal["abort", "wait", "keep"] = "abort"


TokenizeRequest = _TokenizeText | TokenizeChat

_SHAPES: tuple[Any, ...] = (
    ChatBody,
    CompletionRequest,
    EmbeddingRequest,
    DetokenizeRequest,
    TokenizeRequest,
    SleepQuery,
)
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {shape: TypeAdapter(shape) for shape in _SHAPES}
_T = TypeVar("_T")


def parse_chat(body: bytes, content_type: str, max_stop: int = MAX_STOP_STRINGS) -> ChatBody:
    """Raises ApiError."""
    data = _load(body, content_type)
    _check_raw(data, max_stop)
    _check_raw_chat(data)
    request: ChatBody = _validate(ChatBody, data)
    check_sampling(request, wanted_tokens(request))
    return request


def wanted_tokens(request: ChatBody) -> int | None:
    return request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens


def parse_completion(body: bytes, content_type: str, max_stop: int = MAX_STOP_STRINGS) -> CompletionRequest:
    """Raises ApiError."""
    data = _load(body, content_type)
    _check_raw(data, max_stop)
    prompt = data.get("prompt")
    if prompt in (None, ""):
        raise parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and len(prompt) > MAX_PROMPTS and not all(isinstance(part, int) for part in prompt):
        raise parameter(
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of {MAX_PROMPTS}. To increase this "
            "limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable.",
            "prompt",
        )
    request: CompletionRequest = _validate(CompletionRequest, data)
    if request.suffix:
        raise ApiError("suffix is only supported for models with FIM completion rendering", param="suffix")
    if request.prompt == []:
        raise ApiError("You must pass at least one prompt")
    check_sampling(request, 1 if request.echo and request.max_tokens == 0 else request.max_tokens)
    return request


def parse_embedding(body: bytes, content_type: str) -> EmbeddingRequest:
    """Raises ApiError."""
    request: EmbeddingRequest = _validate(EmbeddingRequest, _load(body, content_type))
    if request.input == []:
        raise ApiError("You must pass at least one prompt")
    return request


def parse_tokenize(body: bytes, content_type: str) -> _TokenizeText | TokenizeChat:
    """Raises ApiError."""
    data = _load(body, content_type)
    _check_generation_prompt(data)
    request: _TokenizeText | TokenizeChat = _validate(TokenizeRequest, data)
    return request


def parse_detokenize(body: bytes, content_type: str) -> DetokenizeRequest:
    """Raises ApiError."""
    request: DetokenizeRequest = _validate(DetokenizeRequest, _load(body, content_type))
    return request


def parse_sleep(query: str) -> SleepQuery:
    """Raises ApiError."""
    request: SleepQuery = _validate(SleepQuery, dict(parse_qsl(query, keep_blank_values=True)), "query")
    return request


# --- shapes ---


def _load(body: bytes, content_type: str) -> dict[str, Any]:
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise _malformed("Unsupported Media Type: Only 'application/json' is allowed", None)
    if not body:
        raise _malformed("{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}", "body")
    try:
        data = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else error.start
        cause = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
        item = {
            "type": "json_invalid",
            "loc": f"body.{position}",
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
            "ctx": {"error": cause},
        }
        raise _malformed(str(item), f"body.{position}") from error
    if not isinstance(data, dict):
        item = {
            "type": "model_attributes_type",
            "loc": "body",
            "msg": "Input should be a valid dictionary or object to extract fields from",
            "input": _shown(data),
        }
        raise _malformed(str(item), "body")
    return data


def _malformed(item: str, param: str | None, count: int = 1) -> ApiError:
    label = "error" if count == 1 else "errors"
    return ApiError(f"{count} validation {label}:\n  {item}", kind="Bad Request", param=param)


def _validate(shape: Any, data: Any, source: str = "body") -> Any:
    try:
        return _ADAPTERS[shape].validate_python(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        items = [_problem(dict(problem), source) for problem in problems[:_REPORTED_ERRORS]]
        if len(problems) > _REPORTED_ERRORS:
            items.append(f"...and {len(problems) - _REPORTED_ERRORS} more errors")
        raise _malformed("\n  ".join(items), _location(problems[0]["loc"], source), len(problems)) from error


def _problem(problem: dict[str, Any], source: str) -> str:
    shown = {"type": problem["type"], "loc": _location(problem["loc"], source), "msg": problem["msg"]}
    shown["input"] = _shown(problem["input"])
    if "ctx" in problem:
        shown["ctx"] = problem["ctx"]
    return str(shown)


_INTERNAL = re.compile(r"[\[\]{}()]|^(str|int|float|bool|list|dict|none|_TokenizeText|TokenizeChat|assistant|other)$")


def _location(path: tuple[int | str, ...], source: str) -> str:
    """Leave out pydantic's union branches."""
    return ".".join([source, *(str(part) for part in path if not _INTERNAL.search(str(part)))])


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...[truncated]"


def _too_many_stops(count: int, most: int) -> ApiError:
    shown = f"<list of {count} items>"
    text = {"type": "string_type", "loc": "body.stop", "msg": "Input should be a valid string", "input": shown}
    length = {
        "type": "too_long",
        "loc": "body.stop",
        "msg": f"List should have at most {most} items after validation, not {count}",
        "input": shown,
        "ctx": {"field_type": "List", "max_length": most, "actual_length": count},
    }
    return _malformed(f"{text}\n  {length}", "body.stop", 2)


# --- values ---


def _check_raw(data: dict[str, Any], max_stop: int) -> None:
    """Check the rules that vLLM applies before the shape."""
    stop = data.get("stop")
    if isinstance(stop, list) and len(stop) > max_stop:
        raise _too_many_stops(len(stop), max_stop)
    if data.get("stream_options") and not data.get("stream"):
        raise parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    response_format = data.get("response_format")
    if (
        isinstance(response_format, dict)
        and response_format.get("type") == "json_schema"
        and response_format.get("json_schema") is None
    ):
        raise parameter(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
            "response_format",
        )


def _check_raw_chat(data: dict[str, Any]) -> None:
    top = data.get("top_logprobs")
    if top is not None and not isinstance(top, int | float):
        raise parameter("`top_logprobs` must be an integer.", "top_logprobs", top)
    if top is not None and top < 0 and top != -1:
        raise parameter("`top_logprobs` must be a positive value or -1.", "top_logprobs", top)
    if top and not data.get("logprobs"):
        raise parameter("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if data.get("tools") == []:
        raise parameter(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    _check_tool_choice(data.get("tool_choice"), data.get("tools"))
    _check_generation_prompt(data)


def _check_generation_prompt(data: dict[str, Any]) -> None:
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise ApiError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")


def _check_tool_choice(choice: Any, tools: Any) -> None:
    if choice in (None, "none"):
        return
    if not tools:
        raise parameter("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in ("auto", "required") and not isinstance(choice, dict):
        raise parameter(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.',
            "tool_choice",
        )
    if isinstance(choice, dict) and isinstance(tools, list):
        name = (choice.get("function") or {}).get("name")
        if name not in [(tool.get("function") or {}).get("name") for tool in tools if isinstance(tool, dict)]:
            raise parameter(
                "The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice"
            )


def check_sampling(request: Sampling, max_tokens: int | None) -> None:
    """Only some of vLLM's errors name their parameter. Raises ApiError."""
    _check_choices(request)
    _check_bias(request.logit_bias or {})
    _within("presence_penalty", request.presence_penalty, -2, 2)
    _within("frequency_penalty", request.frequency_penalty, -2, 2)
    if request.repetition_penalty is not None and request.repetition_penalty <= 0:
        raise ApiError(f"repetition_penalty must be greater than zero, got {request.repetition_penalty}.")
    temperature = request.temperature
    if temperature is not None and temperature < 0:
        raise parameter(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if temperature is not None and temperature > 2:
        raise parameter(f"temperature must be in [0, 2], got {temperature}.", "temperature", temperature)
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise parameter(f"top_p must be in (0, 1], got {request.top_p}.", "top_p", request.top_p)
    if request.top_k is not None and request.top_k < -1:
        raise ApiError(f"top_k must be 0 (disable), or at least 1, got {request.top_k}.")
    _within("min_p", request.min_p, 0, 1)
    if max_tokens is not None and max_tokens < 1:
        raise parameter(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if max_tokens is not None and request.min_tokens > max_tokens:
        raise ApiError(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {request.min_tokens}.")
    if request.stop == "" or (isinstance(request.stop, list) and "" in request.stop):
        raise ApiError("stop cannot contain an empty string.")
    if (request.n or 1) > 1 and temperature == 0:
        raise ApiError(f"n must be 1 when using greedy sampling, got {request.n}.")


def _check_choices(request: Sampling) -> None:
    if request.n is not None and request.n < 1:
        raise ApiError(f"n must be at least 1, got {request.n}.")
    if request.n is not None and request.n > MAX_SEQUENCES:
        raise ApiError(
            f"n must be at most {MAX_SEQUENCES}, got {request.n}. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable."
        )


def _check_bias(bias: dict[str, float]) -> None:
    unknown = [key for key in bias if not key.lstrip("-").isdecimal()]
    if unknown:
        raise parameter(
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {unknown}",
            "logit_bias",
            unknown,
        )


def _within(name: str, value: float | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise ApiError(f"{name} must be in [{low}, {high}], got {value}.")


def check_logprobs(count: int, stream: bool | None) -> None:
    """Raises ApiError."""
    if count > MAX_LOGPROBS:
        raise parameter(
            f"Requested sample logprobs of {count}, which is greater than max allowed: {MAX_LOGPROBS}",
            "logprobs",
            count,
            in_stream=bool(stream),
        )

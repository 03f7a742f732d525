"""Validation of the values of a request."""

from __future__ import annotations

from typing import Any

from vllama_pool.workers.simulated.errors import ApiError, parameter
from vllama_pool.workers.simulated.shapes import Sampling
from vllama_pool.workers.simulated.validation import malformed

MAX_STOP_STRINGS = 4
"""$VLLM_MAX_STOP_STRINGS overrides it."""
MAX_LOGPROBS = 20
MAX_SEQUENCES = 16384


def check_raw(data: dict[str, Any], max_stop: int) -> None:
    """Check the rules that vLLM applies before the shape. Raises ApiError."""
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


def check_stop_sequences(stop: Any, most: int) -> None:
    """Raises ApiError."""
    if isinstance(stop, list) and len(stop) > most:
        item = {
            "type": "too_long",
            "loc": "body.stop_sequences",
            "msg": f"List should have at most {most} items after validation, not {len(stop)}",
        }
        raise malformed(str(item), "body.stop_sequences")


def check_raw_chat(data: dict[str, Any]) -> None:
    """Raises ApiError."""
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
    check_generation_prompt(data)


def check_generation_prompt(data: dict[str, Any]) -> None:
    """Raises ApiError."""
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
    return malformed(f"{text}\n  {length}", "body.stop", 2)

"""Ollama's options: types, precedence, and translation into vLLM's (R126-R144).

Precedence, lowest first: Ollama's defaults, generation_config, the route, the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.vllm.api import VllmSampling
from vllama_pool.workers.registry.record import ModelInfo

_INT64: Final = 2**63 - 1
_MIN_TOP_P: Final = 1e-6
"""Replaces 0, which vLLM refuses: only the most likely token remains."""
_MAX_PENALTY: Final = 1e9
"""Bounds numbers that exceed a float."""
_NO_LIMIT: Final = 2**31 - 1
"""max_tokens for no limit if the context length is unknown. vLLM refuses it and names its own."""
UNKNOWN_CONTEXT_TOKENS: Final = 1024
"""max_tokens for /v1/completions if the context length is unknown. vLLM's default is 16."""

_INTEGERS = frozenset(
    {
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "num_keep",
        "num_predict",
        "draft_num_predict",
        "repeat_last_n",
        "seed",
        "top_k",
    }
)
_FLOATS = frozenset(
    {
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    }
)
KNOWN: Final = _INTEGERS | _FLOATS | {"use_mmap", "stop"}
"""Other options are ignored, whatever their type (R143)."""
DROPPED: Final = KNOWN - {
    "num_predict",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
}
_NUMBERS: Final = {**dict.fromkeys(_FLOATS, "float32"), **dict.fromkeys(_INTEGERS, "integer")}
"""Ollama's names of the types."""
_NO_PENALTIES: Final = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_DEFAULTS: Final = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults that differ from vLLM's."""


def check(options: Mapping[str, Any]) -> None:
    """Raises ClientError 500 with Ollama's text (R153). Values are those of decoded JSON."""
    for key, value in options.items():
        kind = type(value)
        if key in _NUMBERS:
            if kind is not float and kind is not int and value is not None:
                raise _wrong(key, f"of type {_NUMBERS[key]}")
        elif key == "stop" and value is not None:
            if kind is not list:
                raise _wrong(key, "of type array")
            if not all(isinstance(item, str) for item in value):
                raise _wrong(key, "of an array of strings")
        elif key == "use_mmap" and value is not None and kind is not bool:
            raise _wrong(key, "of type boolean")


def _wrong(key: str, kind: str) -> ClientError:
    return ClientError(f'option "{key}" must be {kind}', status=500)


def merge(request: Mapping[str, Any] | None, route: Mapping[str, Any], info: ModelInfo) -> dict[str, Any]:
    """Omits generation_config's options, which vLLM applies, and nulls."""
    merged: dict[str, Any] = {key: value for key, value in _DEFAULTS.items() if key not in info.defaults}
    for layer in (route, request or {}):
        for key, value in layer.items():
            if value is not None:
                merged[key] = value
    return merged


def sampling(merged: Mapping[str, Any], info: ModelInfo) -> dict[str, Any]:
    """Arguments of `VllmSampling`, within vLLM's ranges.

    A value that turns an option off is sent: without it, vLLM takes generation_config's. `seed` and `stop` have no
    default there. A `num_predict` of 0 or less means no limit (R126), which is the context's length.
    """
    result: dict[str, Any] = {}
    for key, value in merged.items():
        if key in _BOUNDS:
            name, low, high = _BOUNDS[key]
            result[name] = min(max(float(value), low), high)
        elif key in _CONVERT:
            name, send = _CONVERT[key](value)
            if send is not None:
                result[name] = send
    if int_option(merged.get("repeat_last_n")) == 0:
        result.update(_NO_PENALTIES)
    if merged.get("num_predict") is not None:
        result["max_tokens"] = _max_tokens(merged["num_predict"], info)
    return result


def override(upstream: VllmSampling, request: Mapping[str, Any], route: Mapping[str, Any], info: ModelInfo) -> None:
    """Put a request's options over the route's, which `upstream` has: a shorter way to `merge` and `sampling`."""
    if "repeat_last_n" in request or "repeat_last_n" in route:  # it decides about other options
        values = sampling(merge(request, route, info), info)
        for name in _FIELDS:
            setattr(upstream, name, values.get(name))
        return
    for key, value in request.items():
        if value is None:
            continue
        if key == "num_predict":
            upstream.max_tokens = _max_tokens(value, info)
        elif (bounds := _BOUNDS.get(key)) is not None:
            name, low, high = bounds
            setattr(upstream, name, low if value < low else high if value > high else float(value))
        elif key in _CONVERT:
            setattr(upstream, *_CONVERT[key](value))


def _max_tokens(num_predict: Any, info: ModelInfo) -> int:
    limit = int_option(num_predict) or 0
    wanted = limit if limit > 0 else _NO_LIMIT
    context = info.context_length
    return context if 0 < context < wanted else wanted


def default_max_tokens(info: ModelInfo) -> int:
    """max_tokens for a completion, from which vLLM subtracts the prompt."""
    default = int_option(info.defaults.get("num_predict")) or 0
    room = info.context_length or UNKNOWN_CONTEXT_TOKENS
    return min(default, room) if default > 0 else room


def int_option(value: Any) -> int | None:
    """Convert as Go does: truncate, and clamp to 64 bits."""
    if value is None:
        return None
    number = int(value)
    return number if -_INT64 <= number <= _INT64 else _INT64 if number > 0 else -_INT64


def _top_k(value: Any) -> tuple[str, int]:
    number = int_option(value) or 0
    return "top_k", -1 if number <= 0 else number if number < 2**31 else 2**31 - 1


def _repeat_penalty(value: Any) -> tuple[str, float]:
    return "repetition_penalty", float(min(value, _MAX_PENALTY)) if value > 0 else 1.0


def _seed(value: Any) -> tuple[str, int | None]:
    number = int_option(value)
    return "seed", number if number is not None and number >= 0 else None


def _stop(value: Any) -> tuple[str, list[str] | None]:
    texts = [value] if isinstance(value, str) else value
    return "stop", [text for text in texts if text] or None


_BOUNDS: Final[Mapping[str, tuple[str, float, float]]] = {
    "temperature": ("temperature", 0.0, 2.0),
    "top_p": ("top_p", _MIN_TOP_P, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "presence_penalty": ("presence_penalty", -2.0, 2.0),
    "frequency_penalty": ("frequency_penalty", -2.0, 2.0),
}
"""vLLM's names and ranges."""
_CONVERT: Final[Mapping[str, Callable[[Any], tuple[str, Any]]]] = {
    "top_k": _top_k,
    "repeat_penalty": _repeat_penalty,
    "seed": _seed,
    "stop": _stop,
}
_FIELDS: Final = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
)
"""Fields of VllmSampling that options set."""

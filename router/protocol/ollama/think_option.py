"""Translation of `think` into vLLM's fields (R094-R097)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.vllm import api
from vllama_pool.workers.registry.record import ModelInfo

_LEVELS = ("high", "medium", "low", "max")


@dataclass(frozen=True, slots=True)
class Thinking:
    kwargs: dict[str, bool] | None = None
    effort: str | None = None


def check_think(value: Any) -> None:
    """Raises BadRequest with Ollama's text (R094)."""
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, str):
        raise BadRequest('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value not in _LEVELS:
        raise BadRequest(f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)')


def check_capability(value: Any, model: str, info: ModelInfo) -> None:
    """Raises BadRequest with Ollama's text (R095, R158)."""
    if value and "thinking" not in info.capabilities:
        raise BadRequest(f'"{model}" does not support thinking')


def translate(value: Any, info: ModelInfo) -> Thinking:
    """Thinking is on by default (R095)."""
    if "thinking" not in info.capabilities:
        return Thinking()
    on = value is None or bool(value)
    effort = value if isinstance(value, str) else None
    if info.architecture.startswith("gpt_oss"):
        effort = _gpt_oss_effort(value, on, effort)
    if info.architecture.startswith("mistral") and not info.template:
        # Mistral's tokenizer refuses chat_template_kwargs and accepts these two efforts.
        return Thinking(effort="high" if on else "none")
    return Thinking(kwargs={"enable_thinking": on, "thinking": on}, effort=effort)


def apply(upstream: api.VllmChatRequest, value: Any, info: ModelInfo) -> None:
    thinking = translate(value, info)
    upstream.chat_template_kwargs = thinking.kwargs
    upstream.reasoning_effort = thinking.effort


def _gpt_oss_effort(value: Any, on: bool, effort: str | None) -> str:
    """gpt-oss has three levels, and always thinks (R096)."""
    if not on:
        return "low"
    if effort == "max":
        return "high"
    return effort or "medium"

"""Translation of `think` into vLLM's fields (R094-R097)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol.capabilities import is_missing
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.thinking_refusals import refuses_effort, refuses_switch
from vllama_pool.workers.registry.record import ModelInfo

_LEVELS = ("high", "medium", "low", "max")
_NOT_SUPPORTED = '"{model}" does not support thinking'


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
    if value and is_missing("thinking", info):
        raise BadRequest(_NOT_SUPPORTED.format(model=model))


def is_refusal(failure: AttemptFailed) -> bool:
    """True if the worker refuses the fields of `Thinking`."""
    return refuses_switch(failure) or refuses_effort(failure)


def explain_refusal(failure: AttemptFailed, value: Any, model: str) -> None:
    """Raises Refused with Ollama's text if the worker's model cannot think although the request asks for it."""
    if value and refuses_effort(failure):
        raise Refused(_NOT_SUPPORTED.format(model=model), status=400)


def translate(value: Any, info: ModelInfo, refusals: Sequence[AttemptFailed] = ()) -> Thinking:
    """Thinking is on by default (R095), except while it is not known to be supported."""
    known = "thinking" in info.capabilities
    if not known and (value is None or "thinking" not in info.undetected):
        return Thinking()
    if any(map(refuses_effort, refusals)):
        return Thinking()
    on = value is None or bool(value)
    effort = value if isinstance(value, str) else None
    if info.architecture.startswith("gpt_oss"):
        effort = _gpt_oss_effort(value, on, effort)
    mistral = info.architecture.startswith("mistral") and not info.template
    if mistral or any(map(refuses_switch, refusals)):
        # Mistral's tokenizer refuses chat_template_kwargs and accepts these two efforts.
        return Thinking(effort="high" if on else "none")
    return Thinking(kwargs={"enable_thinking": on, "thinking": on}, effort=effort)


def apply(upstream: api.VllmChatRequest, value: Any, info: ModelInfo, refusals: Sequence[AttemptFailed] = ()) -> None:
    thinking = translate(value, info, refusals)
    upstream.chat_template_kwargs = thinking.kwargs
    upstream.reasoning_effort = thinking.effort


def _gpt_oss_effort(value: Any, on: bool, effort: str | None) -> str:
    """gpt-oss has three levels, and always thinks (R096)."""
    if not on:
        return "low"
    if effort == "max":
        return "high"
    return effort or "medium"

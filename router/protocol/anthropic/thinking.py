"""`thinking`, `output_config.effort` and `output_config.format` (R121)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol.anthropic.requests import OutputConfig, OutputFormat, Prompt, ThinkingConfig
from vllama_pool.router.protocol.capabilities import is_missing
from vllama_pool.router.protocol.vllm.thinking_refusals import refuses_budget, refuses_effort, refuses_switch
from vllama_pool.workers.registry.record import ModelInfo

MIN_BUDGET = 1024
"""vLLM accepts no smaller one."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_SWITCHES = {"enabled": True, "disabled": False}


def read_thinking(thinking: ThinkingConfig | None) -> ThinkingConfig | None:
    """Leave out types that leave it to the model, such as "adaptive"."""
    return thinking if thinking is not None and thinking.type in _SWITCHES else None


def read_output(config: OutputConfig | None, former_format: OutputFormat | None) -> OutputConfig | None:
    """Leave out efforts that vLLM does not know. Raises BadRequest."""
    config = config or OutputConfig()
    effort = (config.effort or "").strip().lower()
    format_ = config.format or former_format
    if format_ is not None:
        if format_.type != "json_schema":
            raise BadRequest(f"output_config.format.type: '{format_.type}' is not 'json_schema'")
        if format_.schema is None:
            raise BadRequest("output_config.format.schema is required")
    read = OutputConfig(effort if effort in _EFFORTS else None, format_)
    return None if read == OutputConfig() else read


def is_refusal(failure: AttemptFailed) -> bool:
    return refuses_budget(failure) or refuses_effort(failure) or refuses_switch(failure)


def apply(
    upstream: Prompt, max_tokens: int | None, info: ModelInfo, refusals: Sequence[AttemptFailed] = ()
) -> dict[str, bool] | None:
    """Relax what the model or vLLM would refuse. Return arguments for the template, which switch thinking."""
    wanted, config = upstream.thinking, upstream.output_config
    missing = is_missing("thinking", info)
    if config is not None and config.effort and (missing or any(map(refuses_effort, refusals))):
        config = OutputConfig(None, config.format)
        upstream.output_config = config if config.format else None
    if wanted is None:
        return None
    if missing:
        upstream.thinking = None
        return None
    if wanted.type == "enabled":
        budget = None if any(map(refuses_budget, refusals)) else _budget(wanted.budget_tokens, max_tokens)
        upstream.thinking = None if budget is None else msgspec.structs.replace(wanted, budget_tokens=budget)
    else:
        upstream.thinking = ThinkingConfig(wanted.type)
    if "thinking" not in info.capabilities or any(map(refuses_switch, refusals)):
        return None
    on = _SWITCHES[wanted.type]
    return {"enable_thinking": on, "thinking": on}


def _budget(tokens: int | None, max_tokens: int | None) -> int | None:
    """None for a budget that limits nothing, or that vLLM does not accept within `max_tokens`."""
    if tokens is None:
        return None
    budget = max(tokens, MIN_BUDGET)
    return None if max_tokens is not None and budget >= max_tokens else budget

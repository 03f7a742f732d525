from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import MODEL, THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol.anthropic import prompt
from vllama_pool.router.protocol.ollama.messages import translated_defaults
from vllama_pool.router.protocol.ollama.options import sampling
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.workers.registry.record import ModelInfo

SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
ON = {"enable_thinking": True, "thinking": True}
OFF = {"enable_thinking": False, "thinking": False}
UNDETECTED = ModelInfo(name="x", template="t", undetected=("thinking",))
WIDE = ModelInfo(name="x", template="t", context_length=40_000, capabilities=("completion", "thinking"))
NO_BUDGET = "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser"
NO_SWITCH = "chat_template_kwargs are not supported for Mistral tokenizers."
NO_EFFORT = "reasoning_effort='high' is not supported for this model"


def sent(info: ModelInfo = THINKER, *refusals: str, max_tokens: int = 1000, **fields: Any) -> dict[str, Any]:
    """Return what is forwarded of thinking and format; after refusals, what is sent instead."""
    body = {"model": "m", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "a"}], **fields}
    request = prompt.decode_message(json.dumps(body).encode())
    prompt.check(request, info)
    plan = ModelPlan(info, NO_DEFAULTS, sampling, translated_defaults)
    if refusals:
        step = prompt.adapt(request, plan, *(AttemptFailed(text, status=400) for text in refusals))
        assert step is not None
    else:
        step = prompt.prepare(request, plan)
    forwarded: dict[str, Any] = json.loads(outgoing(step).body)
    return {
        name: forwarded[name] for name in ("thinking", "output_config", "chat_template_kwargs") if name in forwarded
    }


def enabled(budget: int | None) -> dict[str, Any]:
    return {"type": "enabled"} if budget is None else {"type": "enabled", "budget_tokens": budget}


@pytest.mark.rule(121)
@pytest.mark.parametrize(
    ("info", "budget", "max_tokens", "forwarded"),
    [
        (WIDE, 2000, 4000, 2000),
        (WIDE, 1024, 1025, 1024),
        (WIDE, 5, 4000, 1024),
        (WIDE, 0, 4000, 1024),
        (WIDE, None, 4000, None),
        (WIDE, 5, 1024, None),
        (WIDE, 4000, 4000, None),
        (WIDE, 31_999, 32_000, 31_999),
        (THINKER, 31_999, 32_000, None),
    ],
)
def test_a_budget_is_forwarded_where_vllm_accepts_it(
    info: ModelInfo, budget: int | None, max_tokens: int, forwarded: int | None
) -> None:
    expected = {"chat_template_kwargs": ON}
    found = sent(info, max_tokens=max_tokens, thinking={**enabled(budget), "display": "summarized"})
    assert found == (expected if forwarded is None else {**expected, "thinking": enabled(forwarded)})


@pytest.mark.rule(121)
def test_thinking_is_switched_off() -> None:
    expected = {"thinking": {"type": "disabled"}, "chat_template_kwargs": OFF}
    assert sent(thinking={"type": "disabled", "budget_tokens": 5}) == expected


@pytest.mark.rule(121)
@pytest.mark.parametrize("kind", ["adaptive", "auto", "never heard of", ""])
def test_other_types_leave_it_to_the_effort(kind: str) -> None:
    assert sent(thinking={"type": kind}) == {}
    assert sent(thinking={"type": kind}, output_config={"effort": "low"}) == {"output_config": {"effort": "low"}}


@pytest.mark.rule(121)
@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_an_effort_that_vllm_knows_is_forwarded(effort: str) -> None:
    for spelling in (effort, effort.upper(), f" {effort} "):
        assert sent(output_config={"effort": spelling}) == {"output_config": {"effort": effort}}


@pytest.mark.rule(121)
@pytest.mark.parametrize("effort", ["none", "minimal", "ultra", "", None])
def test_another_effort_is_ignored(effort: str | None) -> None:
    assert sent(output_config={"effort": effort}) == {}


@pytest.mark.rule(121)
@pytest.mark.parametrize("thinking", [enabled(2000), {"type": "disabled"}, {"type": "adaptive"}])
def test_a_model_that_cannot_think_is_not_asked_to(thinking: dict[str, Any]) -> None:
    config = {"effort": "high", "format": FORMAT}
    assert sent(MODEL, thinking=thinking, output_config=config) == {"output_config": {"format": FORMAT}}
    assert sent(MODEL, thinking=thinking, output_config={"effort": "high"}) == {}


def test_a_model_of_which_it_is_not_known_is_asked_without_arguments_for_its_template() -> None:
    assert sent(UNDETECTED, max_tokens=4000, thinking=enabled(2000)) == {"thinking": enabled(2000)}
    assert sent(UNDETECTED, thinking={"type": "disabled"}) == {"thinking": {"type": "disabled"}}


def test_what_a_worker_refuses_of_thinking_is_left_out() -> None:
    assert sent(UNDETECTED, NO_BUDGET, max_tokens=4000, thinking=enabled(2000)) == {}
    assert sent(WIDE, NO_BUDGET, max_tokens=4000, thinking=enabled(2000)) == {"chat_template_kwargs": ON}
    assert sent(WIDE, NO_SWITCH, thinking={"type": "disabled"}) == {"thinking": {"type": "disabled"}}
    config = {"effort": "high", "format": FORMAT}
    assert sent(WIDE, NO_EFFORT, output_config=config) == {"output_config": {"format": FORMAT}}
    assert sent(WIDE, NO_SWITCH, NO_BUDGET, max_tokens=4000, thinking=enabled(2000)) == {}


def test_a_format_is_forwarded_under_its_present_and_its_former_name() -> None:
    assert sent(output_config={"format": FORMAT}) == {"output_config": {"format": FORMAT}}
    assert sent(output_format=FORMAT) == {"output_config": {"format": FORMAT}}
    assert sent(output_format={"type": "odd"}, output_config={"format": FORMAT}) == {
        "output_config": {"format": FORMAT}
    }


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ({"type": "json_schema"}, "output_config.format.schema is required"),
        ({"type": "json_object"}, "output_config.format.type: 'json_object' is not 'json_schema'"),
        ({"schema": SCHEMA}, "output_config.format.type: '' is not 'json_schema'"),
        (
            {"type": "json_schema", "schema": "{}"},
            "Invalid type for 'output_config.format.schema': expected an object, but got a string instead.",
        ),
    ],
)
def test_an_invalid_format_is_refused(format_: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        sent(output_config={"format": format_})
    assert refused.value.text == text

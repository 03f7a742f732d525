from __future__ import annotations

import msgspec

from tests.support.protocol import MODEL
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.plan_cache import PlanCache


def test_a_plan_is_made_once_per_model_and_defaults() -> None:
    plans = PlanCache(ModelPlan)
    cold = Defaults({"temperature": 0})
    plan = plans.of(MODEL, cold)
    assert plans.of(MODEL, cold) is plan
    assert plans.of(MODEL, NO_DEFAULTS) is not plan
    assert plans.of(msgspec.structs.replace(MODEL), cold) is not plan


def test_the_number_of_plans_is_bounded_and_none_is_mixed_up() -> None:
    """Objects of forgotten plans may be freed, and new ones get their addresses."""
    plans = PlanCache(ModelPlan)
    for number in range(3000):
        info = msgspec.structs.replace(MODEL, name=str(number))
        assert plans.of(info, NO_DEFAULTS).info is info
    assert int(repr(plans).split()[2]) <= 1024

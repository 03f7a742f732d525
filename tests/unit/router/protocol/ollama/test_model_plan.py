from __future__ import annotations

import msgspec

from tests.support.protocol import MODEL, THINKER
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan, ModelPlans
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate


def test_requests_do_not_change_the_plan() -> None:
    plan = ModelPlan(THINKER, NO_DEFAULTS)
    plain = decode_chat(b'{"model":"m"}')
    before = plan.chat(plain, [])
    other = decode_chat(
        b'{"model":"m","options":{"temperature":0,"stop":["x"],"num_predict":5},"think":false,"logprobs":true,'
        b'"format":"json","stream":false}'
    )
    assert plan.chat(other, []) != before
    assert plan.chat(plain, []) == before


def test_completions_have_max_tokens_unless_the_request_sets_them() -> None:
    plan = ModelPlan(MODEL, NO_DEFAULTS)
    assert plan.completion(decode_generate(b'{"model":"m","prompt":"x"}'), "x").max_tokens == 2048
    limited = decode_generate(b'{"model":"m","prompt":"x","options":{"num_predict":7}}')
    assert plan.completion(limited, "x").max_tokens == 7


def test_a_plan_is_made_once_per_model_and_defaults() -> None:
    plans = ModelPlans(1)
    cold = Defaults({"temperature": 0})
    plan = plans.of(MODEL, cold)
    assert plans.of(MODEL, cold) is plan
    assert plans.of(MODEL, NO_DEFAULTS) is not plan
    assert plans.of(msgspec.structs.replace(MODEL), cold) is not plan


def test_the_number_of_plans_is_bounded_and_none_is_mixed_up() -> None:
    """Objects of forgotten plans may be freed, and new ones get their addresses."""
    plans = ModelPlans(1)
    for number in range(3000):
        info = msgspec.structs.replace(MODEL, name=str(number))
        assert plans.of(info, NO_DEFAULTS).info is info
    assert int(repr(plans).split()[2]) <= 1024

from __future__ import annotations

from tests.support.protocol import MODEL, THINKER
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
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

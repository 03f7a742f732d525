"""A prompt that is too long for a worker goes to a larger context, and is shortened only if there is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.balance import worker_in
from tests.support.forwarding import CHAT, SERVED, Fleet, ok, refused, status
from tests.support.tables import routing_table
from tests.support.upstream import FakeResponse
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.operation import Operation, UpstreamRequest
from vllama_pool.router.protocol.table import operations
from vllama_pool.workers.registry.record import ModelInfo

V1_CHAT = next(operation for operation in operations(SystemClock()) if operation.name == "v1 chat")


def window(tokens: int, name: str = "m") -> ModelInfo:
    return msgspec.structs.replace(SERVED, name=name, context_length=tokens)


def too_long(limit: int, *, characters: bool = False) -> FakeResponse:
    """vLLM's refusal, with either of its texts."""
    prompt = f"{limit * 90} characters (more than" if characters else f"at least {limit + 1} input tokens"
    return status(400, f"This model's maximum context length is {limit} tokens. However, your prompt contains {prompt}")


def count(tokens: int, limit: int) -> FakeResponse:
    return FakeResponse([json.dumps({"count": tokens, "max_model_len": limit}).encode()])


def sizes(table: RoutingTable | None = None, /, spare: int = 0, **scripts: Any) -> Fleet:
    """Workers "a1024" and so on, each with the context in its name. The worker "x" serves the model x."""
    models = {worker: window(int(worker[1:])) for worker in scripts if worker[1:]}
    return Fleet(table=table, models={**models, "x": window(spare, "x")}, **scripts)


FALLBACK = routing_table(models={"m": {"fallback": {"context": ["x"]}}, "x": {}})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("characters", [False, True])
async def test_a_refused_prompt_goes_to_a_larger_replica(stream: bool, characters: bool) -> None:
    fleet = sizes(a1024=[too_long(1024, characters=characters)], b1024=[ok()], c4096=[ok()])
    assert b'"hi"' in await fleet.answer(stream=stream)
    assert fleet.upstream.workers == ["a1024", "c4096"]
    assert fleet.record.failures == ["ContextTooLong"]
    assert fleet.record.fallbacks == ()


async def test_a_refusal_for_the_length_counts_neither_against_budget_nor_worker() -> None:
    fleet = sizes(a1024=[too_long(1024)] * 5, c4096=[ok() for _ in range(5)])
    for _ in range(5):
        await fleet.answer()
    assert fleet.forwarder._budgets["m"].available == 3
    worker = worker_in(fleet.pool, "a1024")
    assert worker.is_available(1060)
    assert worker.health.is_clean


async def test_each_refusal_leads_to_a_larger_replica_until_one_accepts() -> None:
    fleet = sizes(a1024=[too_long(1024)], b2048=[too_long(2048)], c4096=[too_long(4096)], d8192=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a1024", "b2048", "c4096", "d8192"], "more than the usual three attempts"


async def test_the_worker_with_the_largest_context_shortens_what_fits_nowhere() -> None:
    shortened = [count(9000, 4096), too_long(4096)]
    fleet = sizes(a1024=[too_long(1024)], c4096=[too_long(4096), count(9000, 4096), ok(), *shortened])
    assert b'"hi"' in await fleet.answer()
    assert fleet.upstream.workers[:2] == ["a1024", "c4096"]
    assert set(fleet.upstream.workers[1:]) == {"c4096"}
    assert json.loads(fleet.upstream.sent[-1][2])["truncate_prompt_tokens"] > 0


async def test_a_prompt_is_shortened_at_once_without_a_larger_replica() -> None:
    fleet = sizes(a1024=[too_long(1024), count(2000, 1024), ok()], b1024=[ok()])
    await fleet.answer()
    assert set(fleet.upstream.workers) == {"a1024"}
    assert fleet.record.attempts == 1


async def test_a_prompt_is_not_shortened_while_the_larger_replica_is_busy() -> None:
    fleet = sizes(a1024=[too_long(1024)], c4096=[status(429, "busy")] * 3)
    error = await fleet.refusal()
    assert (error.status, error.text) == (429, "busy")
    assert fleet.upstream.workers == ["a1024", "c4096", "c4096", "c4096"]


async def test_a_prompt_is_shortened_if_the_larger_replica_is_known_to_be_out() -> None:
    fleet = sizes(a1024=[too_long(1024), count(2000, 1024), ok()], c4096=[])
    fleet.pool.mark_suspect("c4096")
    await fleet.answer()
    assert set(fleet.upstream.workers) == {"a1024"}


async def test_a_lost_larger_replica_is_replaced_by_another_one() -> None:
    fleet = sizes(a1024=[too_long(1024)], c4096=[refused()], d4096=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a1024", "c4096", "d4096"]


async def test_a_fallback_with_a_larger_context_answers_before_anything_is_shortened() -> None:
    fleet = sizes(FALLBACK, 4096, a1024=[too_long(1024)], x=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a1024", "x"]
    assert [(move.reason, move.target) for move in fleet.record.fallbacks] == [("context", "x")]


async def test_a_fallback_without_a_larger_context_is_not_asked() -> None:
    fleet = sizes(FALLBACK, 1024, a1024=[too_long(1024), count(2000, 1024), ok()], x=[ok()])
    await fleet.answer()
    assert set(fleet.upstream.workers) == {"a1024"}


async def test_a_fallback_of_unknown_context_is_asked() -> None:
    fleet = sizes(FALLBACK, 0, a1024=[too_long(1024)], x=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers == ["a1024", "x"]


async def test_a_prompt_that_fits_nowhere_is_refused_in_the_words_of_the_protocol() -> None:
    fleet = sizes(FALLBACK, 4096, a1024=[too_long(1024)], x=[too_long(4096)])
    error = await fleet.refusal(operation=V1_CHAT)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "4096" in error.text
    assert fleet.upstream.workers == ["a1024", "x"]


async def test_the_error_of_a_busy_model_is_better_than_a_shorter_prompt_at_its_smaller_fallback() -> None:
    table = routing_table(models={"m": {"fallback": {"overloaded": ["x"]}}, "x": {}})
    fleet = sizes(table, 1024, c4096=[status(429, "busy")], x=[too_long(1024)])
    error = await fleet.refusal()
    assert (error.status, error.text) == (429, "busy")


async def test_a_shorter_answer_is_better_than_another_model() -> None:
    """Some releases refuse a prompt that fits if `max_tokens` does not."""
    text = (
        "This model's maximum context length is 1024 tokens. However, you requested 2000 tokens (10 in the messages, "
        "1990 in the completion)"
    )
    fleet = sizes(FALLBACK, 4096, a1024=[status(400, text)], x=[ok()])
    error = await fleet.refusal(operation=V1_CHAT)
    assert error.status == 400
    assert fleet.upstream.workers == ["a1024"]
    fleet = sizes(a1024=[status(400, text)], c4096=[ok()])
    await fleet.answer(operation=CHAT)
    assert fleet.upstream.workers == ["a1024", "c4096"]


async def test_a_limit_of_the_entry_leads_to_a_fallback_and_to_no_other_replica() -> None:
    table = routing_table(models={"m": {"limits": {"context": 100}, "fallback": {"context": ["x"]}}, "x": {}})
    fleet = sizes(table, 4096, a1024=[count(500, 1024)], b4096=[count(500, 4096)], x=[ok()])
    await fleet.answer()
    assert fleet.upstream.workers[-1] == "x"
    assert len(set(fleet.upstream.workers)) == 2


async def test_a_limit_of_the_entry_shortens_without_a_fallback_of_a_larger_context() -> None:
    table = routing_table(models={"m": {"limits": {"context": 100}, "fallback": {"context": ["x"]}}, "x": {}})
    fleet = sizes(table, 100, a1024=[count(500, 1024)] * 2 + [ok()], x=[])
    await fleet.answer()
    assert set(fleet.upstream.workers) == {"a1024"}


# texts to embed, which vLLM truncates itself


def test_a_truncated_embedding_has_a_form_that_the_worker_may_refuse() -> None:
    operation = next(operation for operation in operations(SystemClock()) if operation.name == "embed")
    assert operation.untruncated is not None
    cut, whole = (operation.decode(b'{"model":"m","input":"a","truncate":%b}' % flag) for flag in (b"true", b"false"))
    assert operation.untruncated(whole, window(1024), NO_DEFAULTS) is whole
    assert _truncation(operation, cut) == -1
    assert _truncation(operation, operation.untruncated(cut, window(1024), NO_DEFAULTS)) is None
    limited = operation.decode(b'{"model":"m","input":"a","options":{"num_ctx":20}}')
    assert operation.untruncated(limited, window(1024), NO_DEFAULTS) is limited


def _truncation(operation: Operation[Any], request: Any) -> int | None:
    step = operation.prepare(request, window(1024), NO_DEFAULTS)
    assert isinstance(step, UpstreamRequest)
    found: int | None = json.loads(step.body).get("truncate_prompt_tokens")
    return found

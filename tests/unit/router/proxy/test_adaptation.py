"""Requests that are sent again to their worker in another form, after it refused them."""

from __future__ import annotations

import dataclasses

from tests.support.forwarding import CHAT, Fleet, ok, status
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.operation import UpstreamRequest


async def test_an_adapted_request_does_not_count_as_a_retry() -> None:
    def adapt(_request: object, _model: object, _defaults: object, *refusals: AttemptFailed) -> UpstreamRequest | None:
        return UpstreamRequest("/v1/chat/completions", b"adapted") if len(refusals) == 1 else None

    fleet = Fleet(a=[status(400, "too many stop strings"), ok()], b=[])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, adapt=adapt))
    assert [(worker, body == b"adapted") for worker, _, body in fleet.upstream.sent] == [("a", False), ("a", True)]
    assert (fleet.record.attempts, fleet.record.failures) == (1, [])


async def test_a_fault_that_nothing_adapts_is_retried_on_another_worker() -> None:
    fleet = Fleet(a=[status(500, "Internal Server Error")], b=[ok()])
    assert await fleet.answer(operation=dataclasses.replace(CHAT, adapt=lambda *_: None))
    assert fleet.upstream.workers == ["a", "b"]


async def test_a_repeated_refusal_ends_adaptation_with_the_first_text() -> None:
    def adapt(*_: object) -> UpstreamRequest:
        return UpstreamRequest("/v1/chat/completions", b"adapted")

    fleet = Fleet(a=[status(400, "too long"), status(400, "too long"), ok()], b=[ok()])
    error = await fleet.refusal(operation=dataclasses.replace(CHAT, adapt=adapt))
    assert (error.status, error.text) == (400, "too long")
    assert fleet.upstream.workers == ["a", "a"]


async def test_a_request_is_adapted_five_times_at_most_and_the_client_gets_the_first_text() -> None:
    def adapt(*_: object) -> UpstreamRequest:
        return UpstreamRequest("/v1/chat/completions", b"adapted")

    fleet = Fleet(a=[*(status(400, f"reason {number}") for number in range(6)), ok()], b=[ok()])
    error = await fleet.refusal(operation=dataclasses.replace(CHAT, adapt=adapt))
    assert (error.status, error.text) == (400, "reason 0")
    assert fleet.upstream.workers == ["a"] * 6

"""Cline requests a window of 32768 tokens, and retries if no response head arrives within 30 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_pool.workers.simulated import faults

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay
    from tests.support.fleet.live import Fleet

CLIENT = "cline"


async def test_every_listed_model_has_a_name(replay: Replay) -> None:
    assert all(model["name"] for model in (await replay.object("models"))["models"])


async def test_a_num_ctx_above_the_models_window_is_accepted(replay: Replay) -> None:
    *parts, last = await replay.lines("chat")
    assert all(isinstance(part["message"]["content"], str) for part in parts)
    assert min(last["prompt_eval_count"], last["eval_count"]) > 0
    assert not {"num_ctx", "truncate_prompt_tokens", "max_tokens"} & set(replay.upstream_body())


async def test_a_response_head_arrives_with_the_first_token(replay: Replay, running: Fleet) -> None:
    worker = running["a"]
    worker.set_faults([faults.Slow(factor=100)])
    async with replay.stream("chat") as answer:
        assert answer.status_code == 200
        assert worker.running == 1
        worker.set_faults([])
        assert '"done":true' in (await answer.aread()).decode()

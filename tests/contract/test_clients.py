"""Stories of clients written for Ollama, on a router with simulated workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients.stories import LongStage, Stage, Stories, client, started
from tests.support.fleet.live import fleet
from vllama_pool.workers.simulated.options import Options

__all__ = ["TestSimulated", "client", "started"]
pytestmark = pytest.mark.clients

MODEL = Options(
    model="thinker",
    tokens_per_second=2000,
    ttft=0.01,
    answer_tokens=12,
    max_model_len=4096,
    per_request_metrics=True,
    tool_calls=True,
    tool_parser=True,
    reasoning=True,
)
EMBEDDER = Options(model="embedder", embedding=True)
SLOW = Options(model="slow", tokens_per_second=20, ttft=0.01, answer_tokens=4000)


class TestSimulated(Stories):
    @pytest.fixture
    async def stage(self, tmp_path: Path) -> AsyncIterator[Stage]:
        async with fleet(tmp_path, {"a": MODEL, "b": MODEL, "c": EMBEDDER}) as running:
            yield Stage(
                url=running.url,
                model="thinker",
                embedder="embedder",
                says="Simulated answer to:",
                thinks="The user asked something.",
                arguments={"city": "simulated", "unit": "simulated"},
                context=4096,
            )

    @pytest.fixture
    async def long_stage(self, tmp_path: Path) -> AsyncIterator[LongStage]:
        async with fleet(tmp_path, {"a": SLOW}) as running:
            yield LongStage(running.url, SLOW.model, "hello", running["a"].url, SLOW.answer_tokens)

    @pytest.fixture
    def writer(self, stage: Stage) -> dict[str, str]:
        return stage.at

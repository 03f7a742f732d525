"""Scenarios of clients of Ollama's API, on a router with simulated workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients.fleets import (
    EMBEDDER,
    SLOW,
    THINKER,
    ChatFleet,
    SlowFleet,
    simulated_chat,
    simulated_slow,
)
from tests.support.clients.scenarios import ScenarioTests
from tests.support.clients.stock_clients import KINDS, StockClient, client, started
from tests.support.fleet.live import fleet
from vllama_pool.workers.simulated.options import Options

__all__ = ["TestSimulated", "client", "started"]
pytestmark = pytest.mark.clients

FAST = Options(model="fast", tokens_per_second=1e6, ttft=0.01, answer_tokens=3)


class TestSimulated(ScenarioTests):
    @pytest.fixture
    async def chat_fleet(self, tmp_path: Path) -> AsyncIterator[ChatFleet]:
        async with fleet(tmp_path, {"a": THINKER, "b": THINKER, "c": EMBEDDER}) as running:
            yield simulated_chat(running.url)

    @pytest.fixture
    async def slow_fleet(self, tmp_path: Path) -> AsyncIterator[SlowFleet]:
        async with fleet(tmp_path, {"a": SLOW}) as running:
            yield simulated_slow(running.url, running["a"].url)

    @pytest.fixture
    def schema_model(self, chat_fleet: ChatFleet) -> dict[str, str]:
        return chat_fleet.at

    @pytest.mark.parametrize("scenario", ["chat_stream", "generate_stream"])
    @pytest.mark.parametrize("client", [kind for kind in KINDS if kind.name == "genkit"], indirect=True, ids=["genkit"])
    async def test_a_client_that_parses_each_read_as_one_line_reads_a_fast_stream(
        self, client: StockClient, tmp_path: Path, scenario: str
    ) -> None:
        """All lines come from the worker at once."""
        async with fleet(tmp_path, {"a": FAST}) as running:
            at = {"url": running.url, "model": FAST.model, "embedder": FAST.model}
            result = await client.run(scenario, at, question="hello", options={})
        assert result["parts"] > FAST.answer_tokens

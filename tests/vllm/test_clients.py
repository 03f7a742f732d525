"""The client scenarios of tests/contract/test_clients.py on real vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients.fleets import ChatFleet, SlowFleet, smollm2_slow, tiny_qwen3_chat
from tests.support.clients.scenarios import ScenarioTests
from tests.support.clients.stock_clients import client, started
from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import VllmServer

__all__ = ["TestRealVllm", "client", "started"]
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


class TestRealVllm(ScenarioTests):
    @pytest.fixture
    def chat_fleet(self, systems: OneSystem, tiny_qwen3_vllm: VllmServer, all_minilm_vllm: VllmServer) -> ChatFleet:
        return tiny_qwen3_chat(systems.url(tiny_qwen3_vllm, all_minilm_vllm), tiny_qwen3_vllm, all_minilm_vllm)

    @pytest.fixture
    def slow_fleet(self, systems: OneSystem, smollm2_vllm: VllmServer) -> SlowFleet:
        return smollm2_slow(systems.url(smollm2_vllm), smollm2_vllm)

    @pytest.fixture
    def schema_model(self, slow_fleet: SlowFleet) -> dict[str, str]:
        """The larger model: with a schema, the tiny one generates whitespace until its context is full."""
        return slow_fleet.at

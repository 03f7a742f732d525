"""The client scenarios of tests/contract/test_v1_clients.py on real vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients.anthropic_scenarios import AnthropicScenarioTests
from tests.support.clients.fleets import ChatFleet, SlowFleet, smollm2_slow, tiny_qwen3_chat
from tests.support.clients.openai_scenarios import OpenAIScenarioTests, ResponsesScenarioTests
from tests.support.clients.stock_clients import client, started
from tests.support.clients.v1_scenarios import V1ScenarioTests
from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import VllmServer

__all__ = ["client", "started"]
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


@pytest.fixture
def chat_fleet(systems: OneSystem, tiny_qwen3_vllm: VllmServer, all_minilm_vllm: VllmServer) -> ChatFleet:
    return tiny_qwen3_chat(systems.url(tiny_qwen3_vllm, all_minilm_vllm), tiny_qwen3_vllm, all_minilm_vllm)


@pytest.fixture
def slow_fleet(systems: OneSystem, smollm2_vllm: VllmServer) -> SlowFleet:
    return smollm2_slow(systems.url(smollm2_vllm), smollm2_vllm)


class TestRealVllm(V1ScenarioTests): ...


class TestRealVllmOpenAI(OpenAIScenarioTests): ...


class TestRealVllmResponses(ResponsesScenarioTests): ...


class TestRealVllmAnthropic(AnthropicScenarioTests): ...

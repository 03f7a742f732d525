"""The client scenarios of tests/contract/test_v1_clients.py on real vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients.anthropic_scenarios import AnthropicScenarioTests
from tests.support.clients.fleets import ChatFleet, SlowFleet
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
    return ChatFleet(
        url=systems.url(tiny_qwen3_vllm, all_minilm_vllm),
        model=tiny_qwen3_vllm.model,
        embedder=all_minilm_vllm.model,
        answer_prefix="Hello! I am a tiny llama 🦙 and I count:",
        thoughts="The user said something. I greet.",
        tool_arguments={"city": "Paris", "unit": "celsius"},
        context=1024,
    )


@pytest.fixture
def slow_fleet(systems: OneSystem, smollm2_vllm: VllmServer) -> SlowFleet:
    """A tiny model's engine would finish before its server has sent the first token."""
    question = "Write all numbers from one to five hundred, separated by commas."
    return SlowFleet(systems.url(smollm2_vllm), smollm2_vllm.model, question, smollm2_vllm.url, answer_tokens=2000)


class TestRealVllm(V1ScenarioTests): ...


class TestRealVllmOpenAI(OpenAIScenarioTests): ...


class TestRealVllmResponses(ResponsesScenarioTests): ...


class TestRealVllmAnthropic(AnthropicScenarioTests): ...

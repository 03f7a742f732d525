"""The client scenarios of tests/contract/test_clients.py on real vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients.scenarios import ChatFleet, ScenarioTests, SlowFleet, client, started
from tests.support.fleet.attached import system
from tests.support.vllm.servers import VllmServer

__all__ = ["TestRealVllm", "client", "started"]
pytestmark = pytest.mark.clients

Over = Callable[..., str]


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Over]:
    """Returns the URL of a router and agents over these servers: one at a time, restarted after a server's restart."""
    running: dict[tuple[str, ...], str] = {}
    with ExitStack() as stack:

        def url(*servers: VllmServer) -> str:
            key = tuple(server.url for server in servers)
            if key not in running:
                stack.close()
                running.clear()
                running[key] = stack.enter_context(system(tmp_path_factory.mktemp("system"), *servers))
            return running[key]

        yield url


class TestRealVllm(ScenarioTests):
    @pytest.fixture
    def chat_fleet(self, over: Over, tiny_qwen3_vllm: VllmServer, all_minilm_vllm: VllmServer) -> ChatFleet:
        return ChatFleet(
            url=over(tiny_qwen3_vllm, all_minilm_vllm),
            model=tiny_qwen3_vllm.model,
            embedder=all_minilm_vllm.model,
            answer_prefix="Hello! I am a tiny llama 🦙 and I count:",
            thoughts="The user said something. I greet.",
            tool_arguments={"city": "Paris", "unit": "celsius"},
            context=1024,
        )

    @pytest.fixture
    def slow_fleet(self, over: Over, smollm2_vllm: VllmServer) -> SlowFleet:
        """Answers for seconds; a tiny model's engine finishes before its server has sent the first token."""
        question = "Write all numbers from one to five hundred, separated by commas."
        return SlowFleet(over(smollm2_vllm), smollm2_vllm.model, question, smollm2_vllm.url, answer_tokens=2000)

    @pytest.fixture
    def schema_model(self, slow_fleet: SlowFleet) -> dict[str, str]:
        """Fixes every choice of the schema: otherwise the tiny model generates whitespace until its context is full."""
        return slow_fleet.at

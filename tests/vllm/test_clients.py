"""The client stories of tests/contract/test_clients.py on real vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients.stories import LongStage, Stage, Stories, client, started
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


class TestRealVllm(Stories):
    @pytest.fixture
    def stage(self, over: Over, tiny_qwen3_vllm: VllmServer, all_minilm_vllm: VllmServer) -> Stage:
        return Stage(
            url=over(tiny_qwen3_vllm, all_minilm_vllm),
            model=tiny_qwen3_vllm.model,
            embedder=all_minilm_vllm.model,
            says="Hello! I am a tiny llama 🦙 and I count:",
            thinks="The user said something. I greet.",
            arguments={"city": "Paris", "unit": "celsius"},
            context=1024,
        )

    @pytest.fixture
    def long_stage(self, over: Over, smollm2_vllm: VllmServer) -> LongStage:
        """Answers for seconds; a tiny model's engine finishes before its server has sent the first token."""
        question = "Write all numbers from one to five hundred, separated by commas."
        return LongStage(over(smollm2_vllm), smollm2_vllm.model, question, smollm2_vllm.url, answer=2000)

    @pytest.fixture
    def writer(self, long_stage: LongStage) -> dict[str, str]:
        """Fixes every choice of the schema: otherwise the tiny model generates whitespace until its context is full."""
        return long_stage.at

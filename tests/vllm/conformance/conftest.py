"""Simulated workers are held to real vLLM: both get the same requests, and the shapes of their answers must be equal.

What tests of the router and the agents prove with simulated workers holds for real ones as far as these tests reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.vllm.server_pair import ServerPair, Simulate
from tests.support.vllm.servers import VllmServer
from tests.support.vllm.simulated import SimulatedProcess

SPEED = ("--tokens-per-second", "500", "--ttft", "0.01", "--answer-tokens", "20")


@pytest.fixture(scope="session")
def simulate() -> Iterator[Simulate]:
    """Pairs a real server with a simulated one of the same name, context and flags, which serves all tests."""
    started: dict[str, SimulatedProcess] = {}
    with ExitStack() as stack:

        def pair(server: VllmServer, *flags: str, api_key: str = "", folder: str = "") -> ServerPair:
            headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
            listed = httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False, verify=False).json()
            context = int(listed["data"][0]["max_model_len"])
            if server.model not in started:
                flags = (*server.spec.flags, "--max-model-len", str(context), *SPEED, *flags)
                named = ("--served-model-name", server.model) if folder else ()
                process = SimulatedProcess(*named, *flags, model=folder or server.model, env=dict(server.spec.env))
                started[server.model] = stack.enter_context(process)
            return ServerPair(server.url, started[server.model].url, server.model, context, headers)

        yield pair


@pytest.fixture
def chat_pair(simulate: Simulate, smollm2_vllm: VllmServer) -> ServerPair:
    return simulate(smollm2_vllm)


@pytest.fixture
def thinking_pair(simulate: Simulate, tiny_qwen3_vllm: VllmServer) -> ServerPair:
    return simulate(tiny_qwen3_vllm)


@pytest.fixture
def no_system_pair(simulate: Simulate, no_system_vllm: VllmServer) -> ServerPair:
    return simulate(no_system_vllm, "--strict-template", "no-system")


@pytest.fixture
def system_first_pair(simulate: Simulate, system_first_vllm: VllmServer) -> ServerPair:
    return simulate(system_first_vllm, "--strict-template", "system-first")


@pytest.fixture
def configured_pair(simulate: Simulate, configured_vllm: VllmServer) -> ServerPair:
    return simulate(configured_vllm, "--answer-tokens", "300", folder=str(configured_vllm.spec.folder))


@pytest.fixture
def embedding_pair(simulate: Simulate, tiny_bert_vllm: VllmServer) -> ServerPair:
    return simulate(tiny_bert_vllm, "--runner", "pooling")

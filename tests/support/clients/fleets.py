"""Fleets for the scenarios of stock clients."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from tests.support.until import auntil
from tests.support.vllm.servers import VllmServer
from vllama_pool.workers.simulated.options import Options

THINKER = Options(
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


@dataclass(frozen=True)
class ChatFleet:
    """A fleet, and the answers of its models."""

    url: str
    model: str
    """Thinks, calls tools, and is deterministic at temperature 0."""
    embedder: str
    answer_prefix: str
    thoughts: str
    """Part of its thoughts."""
    tool_arguments: dict[str, str]
    context: int
    least_parts: int = 1
    """Of a streamed answer. A real vLLM joins the tokens that its front end is late for, on a busy machine."""

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.embedder}


@dataclass(frozen=True)
class SlowFleet:
    """A fleet whose model takes seconds to answer."""

    url: str
    model: str
    question: str
    worker: str
    """Base URL of the only worker."""
    answer_tokens: int

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.model}

    async def unfinished(self) -> int:
        """Requests that the worker runs or queues."""
        return await self._total(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$")

    async def until_unfinished(self, count: int) -> None:
        """Wait until the worker runs and queues so many requests."""

        async def reached() -> bool:
            return await self.unfinished() == count

        await auntil(reached, 60, f"the worker to have {count} requests")

    async def generated_tokens(self) -> int:
        return await self._total(r"^vllm:generation_tokens_total\{.*\} (\S+)$")

    async def _total(self, pattern: str) -> int:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as http:
            page = (await http.get(f"{self.worker}/metrics")).text
        values = re.findall(pattern, page, re.MULTILINE)
        assert values, f"no {pattern}"
        return sum(int(float(value)) for value in values)


def simulated_chat(url: str) -> ChatFleet:
    """The fleet of a router with THINKER and EMBEDDER."""
    return ChatFleet(
        url=url,
        model=THINKER.model,
        embedder=EMBEDDER.model,
        answer_prefix="Simulated answer to:",
        thoughts="The user asked something.",
        tool_arguments={"city": "simulated", "unit": "simulated"},
        context=THINKER.max_model_len,
        least_parts=3,
    )


def simulated_slow(url: str, worker: str) -> SlowFleet:
    return SlowFleet(url, SLOW.model, "hello", worker, SLOW.answer_tokens)


def tiny_qwen3_chat(url: str, chat: VllmServer, embedder: VllmServer) -> ChatFleet:
    """The fleet of a router with tiny-qwen3 (see tests/support/vllm/models/qwen3.py) and an embedding model."""
    return ChatFleet(
        url=url,
        model=chat.model,
        embedder=embedder.model,
        answer_prefix="Hello! I am a tiny llama 🦙 and I count:",
        thoughts="The user said something. I greet.",
        tool_arguments={"city": "Paris", "unit": "celsius"},
        context=1024,
    )


def smollm2_slow(url: str, server: VllmServer) -> SlowFleet:
    """A tiny model's engine would finish before its server has sent the first token."""
    question = "Write all numbers from one to five hundred, separated by commas."
    return SlowFleet(url, server.model, question, server.url, answer_tokens=2000)

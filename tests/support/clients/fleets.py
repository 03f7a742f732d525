"""Fleets for the scenarios of stock clients."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from tests.support.until import auntil


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

    async def freed(self, seconds: float) -> None:
        """Wait until the worker neither runs nor queues a request."""

        async def is_free() -> bool:
            return await self.unfinished() == 0

        await auntil(is_free, seconds, "the worker to be free")

    async def generated_tokens(self) -> int:
        return await self._total(r"^vllm:generation_tokens_total\{.*\} (\S+)$")

    async def _total(self, pattern: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            page = (await http.get(f"{self.worker}/metrics")).text
        values = re.findall(pattern, page, re.MULTILINE)
        assert values, f"no {pattern}"
        return sum(int(float(value)) for value in values)

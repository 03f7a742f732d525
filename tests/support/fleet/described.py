"""A live fleet whose workers have complete metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="plain", tokens_per_second=2000.0, ttft=0.001, answer_tokens=24)
WORKERS = {
    "plain": QUICK,
    "able": replace(QUICK, model="able", tool_calls=True, tool_parser=True, reasoning=True),
    "voice": replace(QUICK, model="voice", transcription=True),
    "vectors": replace(QUICK, model="vectors", embedding=True, dimensions=16, max_model_len=64),
}
"""Plain chat, thinking and tools, audio, embeddings."""


@asynccontextmanager
async def described_fleet(state_dir: Path) -> AsyncIterator[Fleet]:
    async with fleet(state_dir, WORKERS) as running:
        for announced in running.workers.values():
            (model,) = announced.record.models
            known = msgspec.structs.replace(
                model,
                digest=f"{len(model.name):064x}",
                modified_at=1_700_000_000.5,
                parameter_count=134_515_008,
                quantization="BF16",
                embedding_length=576,
            )
            announced.record = msgspec.structs.replace(announced.record, generation=2, models=(known,))
            await running.registry.register(announced.record, announced.load())
        await auntil(lambda: _described(running), 10, "the router to see what the models are")
        yield running


async def _described(running: Fleet) -> bool:
    found = (await running.http.get("/api/tags")).json()["models"]
    return len(found) == len(WORKERS) and all(item["details"]["parameter_size"] == "134.52M" for item in found)

"""The embedded Valkey for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vllama_pool.workers.registry.embedded import EmbeddedValkey


@asynccontextmanager
async def running_valkey(state_dir: Path, *, port: int = 0) -> AsyncIterator[EmbeddedValkey]:
    """Ready on entry."""
    valkey = EmbeddedValkey(state_dir, port=port)
    await valkey.start()
    try:
        await valkey.wait_ready()
        yield valkey
    finally:
        await valkey.stop()

"""A real Valkey for tests: the embedded one, on a socket and a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vllama_pool.workers.registry.embedded import EmbeddedValkey


@asynccontextmanager
async def running_valkey(state_dir: Path, *, port: int = 0) -> AsyncIterator[EmbeddedValkey]:
    """Yields it once it answers, and stops it at the end."""
    valkey = EmbeddedValkey(state_dir, port=port)
    await valkey.start()
    try:
        await valkey.wait_ready()
        yield valkey
    finally:
        await valkey.stop()

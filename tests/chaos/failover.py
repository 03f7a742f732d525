"""Registries that fail over when the server with the fleet's keys is killed, all Valkeys on loopback ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.waiting import wait_until
from tests.support.registry.replicated import Node, cluster, knows_all, owner, replicated
from vllama_pool.workers.registry.keys import Keys


@dataclass(frozen=True)
class Replicas:
    url: str
    """The address of the registry."""
    primary: Node
    """The server with the fleet's keys, which a row may kill."""


@asynccontextmanager
async def sentinels(folder: Path) -> AsyncIterator[Replicas]:
    """A primary and its replica, watched by three Sentinels."""
    async with replicated(folder) as valkeys:

        async def acquainted() -> bool:
            return all([await knows_all(sentinel, 3) for sentinel in valkeys.sentinels])

        await wait_until(acquainted, 30, "the Sentinels to know each other")
        yield Replicas(valkeys.url, valkeys.primary)


@asynccontextmanager
async def cluster_of_six(folder: Path) -> AsyncIterator[Replicas]:
    """Three primaries with a replica each. The address names two others besides the owner of the fleet's slot."""
    async with cluster(folder) as nodes:
        first = await owner(nodes, Keys.of("default").w)
        others = [one for one in nodes if one is not first]
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in (others[0], first, others[1]))
        yield Replicas(f"redis+cluster://{hosts}", first)


Registry = Callable[[Path], AbstractAsyncContextManager[Replicas]]
"""Starts a registry with its files in a folder."""

"""Waits until every router has acknowledged a change, so that read-your-writes holds across routers."""

from __future__ import annotations

import asyncio

from vllama_pool.workers.registry.messages import ModelAck

ACK_TIMEOUT = 0.5
"""Seconds. Slower routers get the change with their next poll."""
_MAX_VERSIONS = 256
_MAX_ROUTERS = 1024


class Acks:
    """Routers that have applied each of the latest changes, by the version after it."""

    def __init__(self) -> None:
        self._routers: dict[str, set[str]] = {}
        self._changed = asyncio.Event()

    def add(self, event: ModelAck) -> None:
        """Acknowledgements may arrive before the registry's reply to the change."""
        routers = self._routers.setdefault(event.version, set())
        if len(routers) < _MAX_ROUTERS:
            routers.add(event.router)
        while len(self._routers) > _MAX_VERSIONS:
            del self._routers[next(iter(self._routers))]
        self._changed.set()

    async def wait(self, version: str, *, others: int, but: str) -> bool:
        """Wait for `others` routers besides `but`. Return False after ACK_TIMEOUT."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                while len(self._routers.get(version, set()) - {but}) < others:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

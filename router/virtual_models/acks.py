"""Waits until every router has acknowledged a change, so that read-your-writes holds across routers."""

from __future__ import annotations

import asyncio

from vllama_pool.workers.registry.messages import ModelAck

ACK_TIMEOUT = 0.5
"""Seconds. A router that has not acknowledged by then gets the change with its next poll."""
_MAX_VERSIONS = 256
_MAX_ROUTERS = 1024


class Acks:
    """Router processes that have applied the latest _MAX_VERSIONS changes, by the version each change made."""

    def __init__(self) -> None:
        self._routers: dict[str, set[str]] = {}
        self._changed = asyncio.Event()

    def add(self, event: ModelAck) -> None:
        """Record an acknowledgement. It may arrive before the registry has answered the router that made the change."""
        routers = self._routers.setdefault(event.version, set())
        if len(routers) < _MAX_ROUTERS:
            routers.add(event.router)
        while len(self._routers) > _MAX_VERSIONS:
            del self._routers[next(iter(self._routers))]
        self._changed.set()

    async def wait(self, version: str, *, others: int, but: str) -> bool:
        """Wait until `others` routers besides `but` have acknowledged. Return False after ACK_TIMEOUT."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                while len(self._routers.get(version, set()) - {but}) < others:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

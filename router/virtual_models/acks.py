"""Who has seen a change: a client that makes a model at one router and asks another for it finds it there."""

from __future__ import annotations

import asyncio

from vllama_pool.workers.registry.messages import ModelSeen

ACK_TIMEOUT = 0.5
"""Seconds that a change waits until every router has it. One that has not by then has it with its next poll."""
_MARKS = 256
"""Latest changes for which it is remembered who has seen them."""
_MOST_ROUTERS = 1024


class Acks:
    """The router processes that have seen the latest changes, by the version that each change made."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}
        self._news = asyncio.Event()

    def seen(self, event: ModelSeen) -> None:
        """A router process has taken over a change. It may say so before the change is known to be made."""
        routers = self._seen.setdefault(event.version, set())
        if len(routers) < _MOST_ROUTERS:
            routers.add(event.router)
        while len(self._seen) > _MARKS:
            del self._seen[next(iter(self._seen))]
        self._news.set()

    async def wait(self, version: str, *, others: int, but: str) -> bool:
        """Wait until so many others have seen a change; `but` is the one who asks. False if that took too long."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                while len(self._seen.get(version, set()) - {but}) < others:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

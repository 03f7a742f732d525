"""Finds the primary of the registry: one server, a node of a cluster, or what Sentinels name.

All keys of a fleet are in one slot, so a cluster too has one primary for it at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from vllama_pool.config.redis_address import Node, show_node
from vllama_pool.workers.registry.errors import PrimaryUnknown, reason


class Locator(Protocol):
    async def locate(self) -> Node:
        """Called for each new connection. Raises PrimaryUnknown."""

    def lost(self) -> None:
        """The last located server does not answer, or is not the primary."""

    def moved(self, node: Node) -> None:
        """The last located server named this node. An empty host is its own."""


class Nodes:
    """One server, or some nodes of a cluster. Any node names the owner of the slot."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = tuple(nodes)
        self._index = 0
        self._owner: Node | None = None

    def __repr__(self) -> str:
        return f"<Nodes at {show_node(self._current)}>"

    async def locate(self) -> Node:
        return self._current

    def lost(self) -> None:
        self._owner = None
        self._index = (self._index + 1) % len(self._nodes)

    def moved(self, node: Node) -> None:
        host, port = node
        self._owner = (host or self._current[0], port)

    @property
    def _current(self) -> Node:
        return self._owner or self._nodes[self._index]


class Sentinels:
    """Asks Sentinels in turn, the one that answered last first."""

    def __init__(self, nodes: Sequence[Node], master: str, options: Mapping[str, Any]) -> None:
        """`options`: of each connection to a Sentinel, such as its time-outs."""
        self._nodes = list(nodes)
        self._master = master
        self._options = options

    def __repr__(self) -> str:
        return f"<Sentinels for {self._master} at {','.join(map(show_node, self._nodes))}>"

    async def locate(self) -> Node:
        refusals: list[str] = []
        silences: list[str] = []
        for node in tuple(self._nodes):
            try:
                found = await self._ask(node)
            except (RedisError, OSError) as error:
                said = _refusal(error, node)
                (refusals if said else silences).append(said or reason(error))
                continue
            self._nodes.remove(node)
            self._nodes.insert(0, node)
            if found is not None:
                return found
            refusals.append(
                f"the Sentinel at {show_node(node)} watches no master named '{self._master}'; write the name of its "
                "configuration (sentinel monitor NAME …) in REDIS_URL"
            )
        if refusals:
            raise PrimaryUnknown(refusals[0])
        where = ",".join(map(show_node, self._nodes))
        raise PrimaryUnknown(
            f"no Sentinel answers at {where} ({silences[0]}); are they running there, and is REDIS_URL right?",
            passing=True,
        )

    def lost(self) -> None:
        """The next connection asks anyway."""

    def moved(self, node: Node) -> None:
        """A cluster has no Sentinels: its answer is reported as it is."""

    async def _ask(self, node: Node) -> Node | None:
        """Return None for an unknown master. Raises RedisError, OSError."""
        host, port = node
        async with aioredis.Redis.from_pool(aioredis.ConnectionPool(host=host, port=port, **self._options)) as sentinel:
            answer = await sentinel.execute_command(  # type: ignore[no-untyped-call]
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master
            )
        if not answer:
            return None
        found, number = answer
        return str(found), int(number)


def _refusal(error: Exception, node: Node) -> str:
    """Return "" if the Sentinel has not answered."""
    text, where = str(error), show_node(node)
    if "unknown command" in text:
        return f"the server at {where} is not a Sentinel; write redis://{where} for a Redis without Sentinels"
    if "WRONGPASS" in text or "invalid username-password" in text or "invalid password" in text:
        return f"the Sentinel at {where} refuses the password; correct ?sentinel_password=PASSWORD in REDIS_URL"
    if "Authentication required" in text or "NOAUTH" in text:
        return f"the Sentinel at {where} asks for a password; add ?sentinel_password=PASSWORD to REDIS_URL"
    if "without any password configured" in text:
        return f"the Sentinel at {where} has no password; remove sentinel_password from REDIS_URL"
    return ""

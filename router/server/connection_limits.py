"""Limits on open connections: in total, per client address, and by what is left of the descriptors.

The kernel gives a new descriptor the lowest free number. So the number of an accepted socket tells how many are open,
without counting them.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from vllama_pool.router.telemetry.families import Family

CONNECTIONS = "vllama.connections"
"""Key of the ASGI lifespan state."""
SPARE_DESCRIPTORS = 64
"""Open files that are not connections of clients, nor to their workers: the registry, probes, refused connections."""
_PER_CLIENT_CONNECTION = 2
"""A client's connection and the one to its worker."""
_IPV6_PREFIX = 64
"""Bits that one site usually has; the others are the client's own to choose."""

BUSY = "this router has too many connections; try again soon"
TOO_MANY_OF_CLIENT = "this address has too many connections to this router; close some, or reuse them"


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Of one process. 0 for no limit."""

    total: int = 0
    per_client: int = 0
    """By address; by network of 64 bits for IPv6."""


TOTAL, ADDRESS, FILES = "total", "address", "files"
"""Limits, as `vllama_client_connections_refused_total` names them."""


@dataclass(frozen=True, slots=True)
class ConnectionRefusal:
    limit: str
    text: str
    """For the client."""
    reason: str
    """For the log: "what is wrong; what to do"."""


def soft_descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class ConnectionLimits:
    """Counts the connections of one process."""

    def __init__(self, bounds: ConnectionBounds, descriptor_limit: Callable[[], int] = soft_descriptor_limit) -> None:
        self._bounds = bounds
        self._descriptor_limit = descriptor_limit
        self._of_client: dict[str, int] = {}
        self.open = 0
        self.refused = 0
        """Refused connections that are not closed yet. They are not counted as open."""
        self._refusals = Counter({TOTAL: 0, ADDRESS: 0, FILES: 0})
        """By limit, of all times."""

    def __repr__(self) -> str:
        return f"<ConnectionLimits {self.open} open>"

    def admit(self, address: str, descriptor: int) -> ConnectionRefusal | None:
        """Count a new connection, and call `leave` with the same address at its end. Return why it is refused instead.

        `address`: of the client; "" on a Unix socket. `descriptor`: number of the accepted socket.
        """
        refusal = self._refusal(address, descriptor)
        if refusal is not None:
            self._refusals[refusal.limit] += 1
            return refusal
        self.open += 1
        if self._bounds.per_client and address:
            client = client_of(address)
            self._of_client[client] = self._of_client.get(client, 0) + 1
        return None

    def families(self) -> Iterator[Family]:
        """Return the metrics of this process."""
        yield Family("vllama_client_connections", "Open connections of clients.", "gauge", series={(): self.open})
        yield Family(
            "vllama_client_connections_refused_total",
            "Connections of clients beyond a limit: VLLAMA_MAX_CONNECTIONS (total), VLLAMA_MAX_CONNECTIONS_PER_CLIENT "
            "(address), or open files (files).",
            "counter",
            ("limit",),
            {(limit,): count for limit, count in self._refusals.items()},
        )

    def refused_ended(self) -> None:
        self.refused -= 1

    def leave(self, address: str) -> None:
        self.open -= 1
        if self._bounds.per_client and address:
            client = client_of(address)
            left = self._of_client.pop(client) - 1
            if left:
                self._of_client[client] = left

    def _refusal(self, address: str, descriptor: int) -> ConnectionRefusal | None:
        bounds = self._bounds
        if bounds.total and self.open >= bounds.total:
            cure = "raise VLLAMA_MAX_CONNECTIONS, or add router processes"
            return ConnectionRefusal(TOTAL, BUSY, f"the process has {self.open} connections; {cure}")
        if bounds.per_client and address and self._of_client.get(client_of(address), 0) >= bounds.per_client:
            cure = "if it is a proxy or many users, raise VLLAMA_MAX_CONNECTIONS_PER_CLIENT"
            reason = f"{address} has {bounds.per_client} connections; {cure}"
            return ConnectionRefusal(ADDRESS, TOO_MANY_OF_CLIENT, reason)
        limit = self._descriptor_limit()
        needed = max(descriptor + 1, _PER_CLIENT_CONNECTION * (self.open + 1)) + min(SPARE_DESCRIPTORS, limit // 4)
        if 0 <= limit < needed:
            cure = "raise the limit on open files (ulimit -n, or LimitNOFILE= of systemd)"
            return ConnectionRefusal(FILES, BUSY, f"few of the {limit} descriptors are left; {cure}")
        return None


def client_of(address: str) -> str:
    """Return the part of an address by which clients are told apart."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else hex(int(parsed) >> (128 - _IPV6_PREFIX))

"""Which of the registry's records may be used: those that are signed, and lie in the fleet's networks.

Both are settled before anything is contacted. A name is resolved here, once, and its address pinned.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from ipaddress import ip_address

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.networks import IPAddress, IPNetwork, UrlRefused, WorkerUrl, parse_url, permitted
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.keys import check_worker_id
from vllama_pool.workers.registry.signature import RecordRefused, unseal

RESOLVE_TIMEOUT = 1.0
"""Seconds."""
_MOST_REFUSALS = 1000

_log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[IPAddress]]]


class Unresolved(Exception):
    """A name has no address now; it may have one later."""


async def resolve(host: str, port: int) -> list[IPAddress]:
    """The addresses of a name. Raises Unresolved."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unresolved(f"its host {host} cannot be resolved") from error
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


CHECKED_AT_ONCE = 50
"""Records that are checked before the event loop gets a turn: some milliseconds of decoding and hashing."""


class Endpoints:
    """Makes endpoints of URLs: one TLS context, and the workers' bearer key, for all."""

    def __init__(self, key: str | None) -> None:
        self._authorization = f"Bearer {key}" if key else None
        self._tls: ssl.SSLContext | None = None

    def of(self, url: WorkerUrl, at: IPAddress | None = None) -> Endpoint:
        """`at`: the address that the URL's host, a name, is pinned to."""
        if url.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if url.scheme == "https" else None
        return Endpoint(str(at or url.host), url.port, url.prefix, tls, self._authorization, url.host if at else None)


class RecordChecker:
    """Checks envelopes, and remembers what it has found. `unsigned` as in `signature.unseal`."""

    def __init__(
        self,
        *,
        fleet: str,
        secret: bytes | None,
        unsigned: bool,
        networks: Collection[IPNetwork],
        endpoints: Endpoints,
        resolve: Resolve = resolve,
    ) -> None:
        self._fleet = fleet
        self._secret = secret
        self._unsigned = unsigned
        self._networks = tuple(networks)
        self._endpoints = endpoints
        self._resolve = resolve
        self._passed: dict[str, tuple[bytes, Discovered]] = {}
        self._refused: dict[str, str] = {}
        self.refusals = 0
        """How many envelopes were refused so far; those that only could not be resolved are not counted."""
        self.pending = False
        """Whether a name could not be resolved at the last check: the records should be asked for again."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Worker id -> why its record is not used."""
        return self._refused

    async def check_all(self, envelopes: Mapping[str, bytes]) -> dict[str, Discovered]:
        """Those of a full set of records that may be used. Forgets what is no longer in the set."""
        self._passed = {key: value for key, value in self._passed.items() if key in envelopes}
        self._refused = {key: value for key, value in self._refused.items() if key in envelopes}
        self.pending = False
        async with asyncio.TaskGroup() as group:
            checks: list[asyncio.Task[Discovered | None]] = []
            for key, value in envelopes.items():
                checks.append(group.create_task(self.check(key, value)))
                if len(checks) % CHECKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return {found.record.id: found for check in checks if (found := check.result()) is not None}

    async def check(self, worker_id: str, envelope: bytes) -> Discovered | None:
        """The worker, or None if its record may not be used: that is logged once."""
        known = self._passed.get(worker_id)
        if known is not None and known[0] == envelope:
            return known[1]
        try:
            found = await self._check(worker_id, envelope)
        except (RecordRefused, UrlRefused) as error:
            self._refuse(worker_id, str(error))
            return None
        except Unresolved as error:
            self.pending = True
            self._note(worker_id, str(error))
            return None
        self._passed[worker_id] = (envelope, found)
        self._refused.pop(worker_id, None)
        return found

    async def _check(self, worker_id: str, envelope: bytes) -> Discovered:
        try:
            check_worker_id(worker_id)
        except ValueError as error:
            raise RecordRefused(str(error)) from error
        record = unseal(
            envelope,
            worker_id=worker_id,
            fleet=self._fleet,
            secret=self._secret,
            unsigned=self._unsigned,
        )
        url = parse_url(record.url)
        return Discovered(record, self._endpoints.of(url, await self._pin(url)))

    async def _pin(self, url: WorkerUrl) -> IPAddress | None:
        """The first permitted address of a name; None for a URL that has a permitted address itself. Raises
        UrlRefused, Unresolved."""
        literal = url.address
        addresses = [literal] if literal else await self._resolve(url.host, url.port)
        allowed = [address for address in addresses if permitted(address, self._networks)]
        if not allowed:
            networks = ", ".join(map(str, self._networks)) or "none"
            raise UrlRefused(
                f"its URL {url} is outside the networks of this fleet ({networks}); see VLLAMA_WORKER_NETWORKS"
            )
        return None if literal else allowed[0]

    def _refuse(self, worker_id: str, why: str) -> None:
        if self._refused.get(worker_id) != why:
            self.refusals += 1
        self._note(worker_id, why)

    def _note(self, worker_id: str, why: str) -> None:
        if self._refused.get(worker_id) == why:
            return
        if len(self._refused) >= _MOST_REFUSALS:
            self._refused.clear()
        self._refused[worker_id] = why
        _log.warning("worker %r is not used: %s", worker_id, why)

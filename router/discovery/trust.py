"""Accepts only signed records whose URL is inside the fleet's networks, before anything is contacted.

A host name is resolved once, and its addresses pinned.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from ipaddress import ip_address

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.networks import IPAddress, IPNetwork, UrlRefused, WorkerUrl, parse_url, permitted
from vllama_pool.router.log_once import LogOnce
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.keys import check_worker_id
from vllama_pool.workers.registry.signature import RecordRefused, verify_record
from vllama_pool.workers.vllm.trust_store import TrustStore

RESOLVE_TIMEOUT = 1.0
"""Seconds."""
BATCH = 50
"""Records checked between two turns of the event loop: a few milliseconds."""

_log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[IPAddress]]]


class Unresolved(Exception):
    """A host name does not resolve now."""


async def resolve(host: str, port: int) -> list[IPAddress]:
    """Raises Unresolved."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unresolved(f"its host {host} cannot be resolved") from error
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


class Endpoints:
    """Builds endpoints with a shared TLS context and the workers' API key."""

    def __init__(self, key: str | None, trust: TrustStore | None = None) -> None:
        """`trust`: the trust store of the probes. The first https worker loads it."""
        self._authorization = f"Bearer {key}" if key else None
        self._trust = trust or TrustStore()

    async def load_trust(self, url: WorkerUrl) -> None:
        """Load the trust store in a thread if this worker is the first that needs it."""
        if url.scheme == "https" and not self._trust.loaded:
            await asyncio.to_thread(self._trust.load)

    def build(self, url: WorkerUrl, pinned: Sequence[IPAddress] = ()) -> Endpoint:
        """`pinned`: the host name's resolved addresses."""
        tls = self._trust.load() if url.scheme == "https" else None
        name = url.host if pinned else None
        host, *others = [str(address) for address in pinned] or [url.host]
        return Endpoint(host, url.port, url.prefix, tls, self._authorization, name, tuple(others))


class RecordChecker:
    """Checks and caches envelopes. `allow_unsigned` as in `signature.verify`."""

    def __init__(
        self,
        *,
        fleet: str,
        secret: bytes | None,
        allow_unsigned: bool,
        networks: Collection[IPNetwork],
        endpoints: Endpoints,
        resolve: Resolve = resolve,
    ) -> None:
        self._fleet = fleet
        self._secret = secret
        self._allow_unsigned = allow_unsigned
        self._networks = tuple(networks)
        self._endpoints = endpoints
        self._resolve = resolve
        self._accepted: dict[str, tuple[bytes, Discovered]] = {}
        self._log_once = LogOnce(_log, "worker %r is ignored: %s")
        self.refusals = 0
        """Refused envelopes, without unresolved host names."""
        self.pending = False
        """True if a host name did not resolve: fetch the records again."""

    def envelope(self, found: Discovered) -> bytes | None:
        """Return the envelope from which this worker was made, if it is still known."""
        known = self._accepted.get(found.record.id)
        return known[0] if known is not None and known[1].record == found.record else None

    async def check_all(self, envelopes: Mapping[str, bytes]) -> dict[str, Discovered]:
        """Return the usable workers of a full set of records, by id. Forgets all others."""
        self._accepted = {key: value for key, value in self._accepted.items() if key in envelopes}
        self._log_once.keep(envelopes)
        self.pending = False
        async with asyncio.TaskGroup() as group:
            checks: list[asyncio.Task[Discovered | None]] = []
            for key, value in envelopes.items():
                checks.append(group.create_task(self.check(key, value)))
                if len(checks) % BATCH == 0:
                    await asyncio.sleep(0)
        return {found.record.id: found for check in checks if (found := check.result()) is not None}

    async def check(self, worker_id: str, envelope: bytes) -> Discovered | None:
        """Return None for a record that must not be used. Logs it once."""
        known = self._accepted.get(worker_id)
        if known is not None and known[0] == envelope:
            return known[1]
        try:
            found = await self._check(worker_id, envelope)
        except (RecordRefused, UrlRefused) as error:
            self.refusals += self._log_once.warn(worker_id, str(error))
            return None
        except Unresolved as error:
            self.pending = True
            self._log_once.warn(worker_id, str(error))
            return None
        self._accepted[worker_id] = (envelope, found)
        self._log_once.forget(worker_id)
        return found

    async def _check(self, worker_id: str, envelope: bytes) -> Discovered:
        try:
            check_worker_id(worker_id)
        except ValueError as error:
            raise RecordRefused(str(error)) from error
        record = verify_record(
            envelope,
            worker_id=worker_id,
            fleet=self._fleet,
            secret=self._secret,
            allow_unsigned=self._allow_unsigned,
        )
        url = parse_url(record.url)
        pinned = await self._pin(url)
        await self._endpoints.load_trust(url)
        return Discovered(record, self._endpoints.build(url, pinned))

    async def _pin(self, url: WorkerUrl) -> Sequence[IPAddress]:
        """Return a host name's permitted addresses, none for a literal one. Raises UrlRefused, Unresolved."""
        literal = url.address
        addresses = [literal] if literal else await self._resolve(url.host, url.port)
        allowed = [address for address in addresses if permitted(address, self._networks)]
        if not allowed:
            networks = ", ".join(map(str, self._networks)) or "none"
            raise UrlRefused(
                f"its URL {url} is outside the networks of this fleet ({networks}); set VLLAMA_WORKER_NETWORKS"
            )
        return () if literal else tuple(dict.fromkeys(allowed))

"""Connects to one of a host name's addresses, each in its share of the time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

from vllama_pool.router.upstream.interface import Endpoint

AVOIDED_SECONDS = 30.0
"""Time for which an address that failed is tried after the others of its name."""
_MAX_AVOIDED = 1024

Connection = TypeVar("Connection", bound=asyncio.Protocol)
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From a name and a port to its addresses, the preferred one first. Raises OSError and UnicodeError."""


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, each once."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Addresses:
    """Remembers the addresses that failed, so that the next connection tries the others of the name first.

    The addresses that work keep the resolver's order, by which it spreads connections.
    """

    def __init__(self, resolver: Resolve = resolve) -> None:
        self._resolve = resolver
        self._failed: dict[tuple[str, str], float] = {}
        """By name and address: time on the loop's clock."""

    def __repr__(self) -> str:
        return f"<Addresses, {len(self._failed)} failed>"

    async def connect(self, endpoint: Endpoint, make: Callable[[], Connection], due: float) -> Connection:
        """Return the protocol of a new connection.

        `make` is called for each address. `due`: end of the time, on the loop's clock; the caller ends the last try.
        Raises the last address's OSError, and UnicodeError.
        """
        host = endpoint.host
        known = [host, *endpoint.others] if _is_address(host) else []
        if len(known) == 1:
            return await _open(endpoint, host, make)
        loop = asyncio.get_running_loop()
        addresses = self._ordered(host, known or await self._resolve(host, endpoint.port), loop.time())
        *others, last = addresses
        for index, address in enumerate(others):
            share = (due - loop.time()) / (len(addresses) - index)
            try:
                async with asyncio.timeout(share):
                    connection = await _open(endpoint, address, make)
            except OSError:
                self._note_failure(host, address, loop.time())
            else:
                self._failed.pop((host, address), None)
                return connection
        try:
            connection = await _open(endpoint, last, make)
        except OSError:
            if others:
                self._note_failure(host, last, loop.time())
            raise
        self._failed.pop((host, last), None)
        return connection

    def _ordered(self, host: str, addresses: list[str], now: float) -> list[str]:
        """Put those that failed lately at the end, the latest last."""
        if not addresses:
            raise OSError(f"{host} has no address")
        if not self._failed:
            return addresses
        since = now - AVOIDED_SECONDS
        failed = [self._failed.get((host, address), since) for address in addresses]
        order = sorted(range(len(addresses)), key=lambda index: max(since, failed[index]))
        return [addresses[index] for index in order]

    def _note_failure(self, host: str, address: str, now: float) -> None:
        self._failed.pop((host, address), None)
        if len(self._failed) >= _MAX_AVOIDED:
            del self._failed[next(iter(self._failed))]  # the oldest
        self._failed[host, address] = now


async def _open(endpoint: Endpoint, address: str, make: Callable[[], Connection]) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        make,
        address,
        endpoint.port,
        ssl=endpoint.tls,
        server_hostname=(endpoint.server_name or endpoint.host) if endpoint.tls else None,
    )
    return connection


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True

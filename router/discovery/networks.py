"""Allowlist of the addresses that a router may contact: those inside the fleet's networks. Pure.

The caller resolves host names and must connect to the address that was checked: a second resolution could return
another address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from vllama_pool.config.urls import InvalidUrl, worker_url

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_MAX_URL = 2048


class UrlRefused(ValueError):
    """The URL is invalid or must not be contacted. The text says why."""


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A worker's parsed URL."""

    scheme: str
    """"http" or "https"."""
    host: str
    """A host name, or an address in canonical form, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path without a trailing slash."""

    @property
    def address(self) -> IPAddress | None:
        """The host as an address, or None if it is a name."""
        try:
            return _plain(ip_address(self.host))
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_url(url: str) -> WorkerUrl:
    """Parse a base URL. Raises UrlRefused for anything but http(s)://HOST[:PORT][/PREFIX]."""
    if len(url) > _MAX_URL:
        raise UrlRefused("its URL is too long")
    try:
        parts = urlsplit(worker_url(url))
    except InvalidUrl as error:
        raise UrlRefused(f"its URL: {error}") from error
    return WorkerUrl(
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
        parts.path,
    )


def permitted(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Return True if the address is in one of the networks. An IPv4-mapped IPv6 address counts as IPv4."""
    address = _plain(address)
    return any(address.version == network.version and address in network for network in networks)


def _plain(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address

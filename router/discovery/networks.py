"""Allowlist of the addresses that a router may contact: those inside the fleet's networks. Pure.

The caller must connect to the checked address: a second resolution could return another one.
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
    """The URL is invalid or must not be contacted."""


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    scheme: str
    """http or https."""
    host: str
    """Name or canonical address, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path without a trailing slash."""

    @property
    def address(self) -> IPAddress | None:
        """None for a host name."""
        try:
            return _plain(ip_address(self.host))
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_url(url: str) -> WorkerUrl:
    """Parse http(s)://HOST[:PORT][/PREFIX]. Raises UrlRefused."""
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
    """An IPv4-mapped IPv6 address counts as IPv4."""
    address = _plain(address)
    return any(address.version == network.version and address in network for network in networks)


def _plain(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address

"""Which URLs a router may contact: those inside the fleet's networks, and nothing that only looks like one.

Pure. A name must be resolved by the caller, and the address that passed is the one to connect to: resolving
it again would let a DNS answer of a later moment through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_MAX_URL = 2048
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_PORTS = {"http": 80, "https": 443}


class UrlRefused(ValueError):
    """The URL must not be contacted. The text says why."""


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A worker's URL in its parts."""

    scheme: str
    """"http" or "https"."""
    host: str
    """A name, or an address in its usual form, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path without a trailing slash."""

    @property
    def address(self) -> IPAddress | None:
        """The host if it is an address, None if it is a name."""
        try:
            return _plain(ip_address(self.host))
        except ValueError:
            return None

    def at(self, address: IPAddress) -> WorkerUrl:
        """The same URL, with the host pinned to an address."""
        return WorkerUrl(self.scheme, str(address), self.port, self.prefix)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_url(url: str) -> WorkerUrl:
    """Take a base URL apart. Raises UrlRefused for anything but http(s)://HOST[:PORT][/PREFIX]."""
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused("its URL has characters that no URL has, or too many")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlRefused(f"its URL {url} cannot be read: {error}") from error
    if parts.scheme not in _PORTS:
        raise UrlRefused(f"its URL {url} is not http or https")
    if "@" in parts.netloc:
        raise UrlRefused("its URL carries user information")
    if "?" in url or "#" in url:
        raise UrlRefused(f"its URL {url} has a query or a fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise UrlRefused(f"its URL {url} has no usable port")
    path = parts.path
    if not _PATH.fullmatch(path) or "//" in path or {".", ".."} & set(path.split("/")):
        raise UrlRefused(f"its URL {url} has an unusual path")
    host = parts.hostname or ""
    if "[" in parts.netloc:
        host = _ipv6(host, url)
    elif not _HOST.fullmatch(host):
        raise UrlRefused(f"its URL {url} has no usable host")
    return WorkerUrl(parts.scheme, host, port or _PORTS[parts.scheme], path.rstrip("/"))


def permitted(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Whether the address lies in one of the networks. An IPv4 address dressed as IPv6 counts as IPv4."""
    address = _plain(address)
    return any(address.version == network.version and address in network for network in networks)


def _plain(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _ipv6(host: str, url: str) -> str:
    try:
        address = IPv6Address(host)
    except ValueError as error:
        raise UrlRefused(f"its URL {url} has no usable host") from error
    if address.scope_id:
        raise UrlRefused(f"its URL {url} names a network interface")
    return str(address)

"""Parses OLLAMA_HOST: `[scheme://]host[:port][/path]` (R185)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_HOST = "127.0.0.1"
_PORTS = {"http": "80", "https": "443"}
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    """Name or address, IPv6 without brackets; "" for all addresses."""
    port: int
    """0 lets the kernel choose."""
    scheme: str = "http"
    path: str = ""
    """Path prefix of clients; servers ignore it."""


def parse_listen(text: str) -> Listen:
    """Parse as Ollama does, which never fails: an invalid port becomes the scheme's default."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        scheme, rest = "http", scheme
    default_port = _PORTS.get(scheme, "11434") if separator else "11434"
    host_port, _, path = rest.partition("/")
    split = _split(host_port)
    if split is None:
        host, port = _bare_host(host_port), default_port
    else:
        host, port = split
    if not _INTEGER.match(port) or len(port) > 20 or not 0 <= int(port) <= 65535:
        port = default_port
    return Listen(host, int(port), scheme, path)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address. False for names other than localhost."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _split(host_port: str) -> tuple[str, str] | None:
    """Split as Go's net.SplitHostPort does. None if it finds no port."""
    if host_port.startswith("["):
        host, bracket, rest = host_port[1:].partition("]")
        if not bracket or not rest.startswith(":") or set(host + rest) & set("[]"):
            return None
        return (host, rest[1:]) if ":" not in rest[1:] else None
    host, colon, port = host_port.rpartition(":")
    if not colon or ":" in host or set(host_port) & set("[]"):
        return None
    return host, port


def _bare_host(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text or DEFAULT_HOST
    return str(getattr(address, "ipv4_mapped", None) or address)

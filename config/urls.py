"""Checks and normalises the base URL of a worker."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class InvalidUrl(ValueError):
    """`str()` reads "what is wrong; what to do", and never repeats a password."""


def worker_url(text: str) -> str:
    """Return the normal form of a worker's base URL, such as "http://10.0.0.5:8000". Raises InvalidUrl.

    Scheme and host become lower case; a default port and a trailing slash are removed. User info, query, fragment and
    unusual path segments are refused.
    """
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise InvalidUrl("the URL has blanks, control or non-ASCII characters; write scheme://host:port")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidUrl("invalid host or port; write scheme://host:port") from None
    if parts.scheme not in _DEFAULT_PORTS or not text.lower().startswith(f"{parts.scheme}://"):
        raise InvalidUrl("not an http:// or https:// URL; write http://host:port")
    if "@" in parts.netloc:
        raise InvalidUrl("has a user name or password; remove it, workers take VLLAMA_WORKER_KEY")
    if "?" in text or "#" in text or "\\" in text:
        raise InvalidUrl("has a query, fragment or backslash; write scheme://host:port")
    if port == 0 or parts.netloc.endswith(":"):
        raise InvalidUrl("invalid port; write a port from 1 to 65535 or leave the ':' out")
    host = _host(parts.hostname or "")
    shown_port = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown_port}{_path(parts.path)}"


def _host(host: str) -> str:
    if "%" in host:
        raise InvalidUrl("the address has a zone; write an address without '%'")
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            raise InvalidUrl("the host is not an IPv6 address; write http://[address]:port") from None
    if not _HOST_NAME.match(host):
        raise InvalidUrl("the host is not a name or address; write http://host:port")
    if re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise InvalidUrl("the host is not an IPv4 address; write four numbers, such as 10.0.0.5") from None
    return host


def _path(path: str) -> str:
    segments = path.removesuffix("/").split("/")[1:]
    if not all(_SEGMENT.match(segment) for segment in segments):
        raise InvalidUrl("the path has '.', '..', '%' or an empty part; write plain segments")
    if segments and segments[-1] == "v1":
        raise InvalidUrl("ends in /v1, which the router adds itself; leave it out")
    return "".join(f"/{segment}" for segment in segments)

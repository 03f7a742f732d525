"""The address of a Redis, parsed and checked before anything connects. Pure.

Client libraries read more from a URL than vLLama can use, such as options that change the type of replies. Only what
`parse` accepts reaches the client.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_NODES = 64
MAX_SOCKET_PATH = 107
"""Bytes on Linux."""

_FORMS = (
    "write redis://HOST:6379/0, rediss:// for TLS, redis+sentinel://HOST:26379,HOST:26379/MASTER, "
    "redis+cluster://HOST:6379,HOST:6379, or unix:///PATH"
)
_SENTINEL, _CLUSTER = "+sentinel", "+cluster"
_SCHEMES = frozenset(("unix", *(base + kind for base in ("redis", "rediss") for kind in ("", _SENTINEL, _CLUSTER))))
_ESCAPES = (
    "has a character in its user name, password or options that means something in a URL; "
    "write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, & as %26 and % as %25"
)
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_DATABASE = re.compile(r"[0-9]{1,9}\Z")
_MASTER = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")

Node = tuple[str, int]
"""Host, IPv6 without brackets, and port."""


class InvalidAddress(ValueError):
    """`str()` reads "what is wrong; what to do", and repeats no part of the address but the names of options."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`str()` and `repr()` show neither user name nor password, and are the only form for output."""

    host: str = ""
    """IPv6 without brackets; the first of several. Empty for a socket."""
    port: int = DEFAULT_PORT
    path: str = ""
    """Path of a Unix socket."""
    db: int = 0
    tls: bool = False
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """Credentials and TLS options under the names of redis-py, and sentinel_username and sentinel_password."""
    nodes: tuple[Node, ...] = ()
    """The Sentinels, or the nodes of a cluster that are asked for the others. Empty for one server."""
    master: str = ""
    """Name under which the Sentinels watch the primary. Empty without Sentinels."""

    @property
    def is_local(self) -> bool:
        """True for a Unix socket."""
        return bool(self.path)

    @property
    def endpoint(self) -> str:
        """Host and port, or the path of the socket; for messages also several, and the name of the master."""
        nodes = ",".join(map(show_node, self.nodes or ((self.host, self.port),)))
        return self.path or (f"{self.master} of Sentinel {nodes}" if self.master else nodes)

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        kind = _SENTINEL if self.master else _CLUSTER if self.nodes else ""
        nodes = ",".join(map(show_node, self.nodes or ((self.host, self.port),)))
        where = f"{nodes}/{self.master}" if self.master else nodes
        return f"{'rediss' if self.tls else 'redis'}{kind}://{where}/{self.db}"


def show_node(node: Node) -> str:
    host, port = node
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def at_socket(path: str) -> RedisAddress:
    """Return the address of a Unix socket. Raises InvalidAddress."""
    if "\0" in path:
        raise InvalidAddress("the path of the socket has a NUL character; remove it")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH:
        raise InvalidAddress(f"the path of the socket is longer than {MAX_SOCKET_PATH} bytes; choose a shorter one")
    return RedisAddress(path=path)


def parse(text: str) -> RedisAddress:
    """Parse the URL of a Redis, of Sentinels or of a cluster, or the path of a socket. Raises InvalidAddress."""
    _check_text(text)
    if text.startswith("/"):
        path, _, query = text.partition("?")
        return _socket(path, _options(query, tls=False))
    scheme, rest = _scheme(text)
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    authority, tail = rest[:end], rest[end:]
    if any(c.isspace() for c in text):
        raise InvalidAddress("has blanks; write a blank as %20, or remove it")
    if "@" in tail or "#" in tail:
        raise InvalidAddress(_ESCAPES)
    user_info, _, host_port = authority.rpartition("@")
    path, _, query = tail.partition("?")
    tls, sentinel = scheme.startswith("rediss"), scheme.endswith(_SENTINEL)
    options = {**_options(query, tls=tls, sentinel=sentinel), **_credentials(user_info)}
    if scheme == "unix":
        if host_port:
            raise InvalidAddress("the path of the socket does not begin with '/'; write unix:///PATH")
        return _socket(_decoded(path), options)
    nodes, master = _nodes(host_port, scheme), ""
    if sentinel:
        _, _, path = path.partition("/")
        master, _, path = path.partition("/")
        master = _master(_decoded(master))
    host, port = nodes[0]
    return RedisAddress(
        host,
        port,
        db=_database(path, options.pop("db", None)),
        tls=tls,
        options=MappingProxyType(options),
        nodes=nodes if "+" in scheme else (),
        master=master,
    )


def _nodes(text: str, scheme: str) -> tuple[Node, ...]:
    """Parse the hosts, which are several only for Sentinels and clusters."""
    default = SENTINEL_PORT if scheme.endswith(_SENTINEL) else DEFAULT_PORT
    if "+" not in scheme:
        return (_host_and_port(text, default),)
    parts = text.split(",")
    if len(parts) > MAX_NODES:
        raise InvalidAddress(f"names more than {MAX_NODES} hosts; name some of them")
    nodes = tuple(_host_and_port(part, default) for part in parts)
    if len(set(nodes)) < len(nodes):
        raise InvalidAddress("names a host twice; remove one of them")
    return nodes


def _master(text: str) -> str:
    if not text:
        raise InvalidAddress("the name of the master is missing; write redis+sentinel://HOST:26379/MASTER")
    if not _MASTER.match(text):
        raise InvalidAddress(
            "the name of the master is not one that a Sentinel takes; write it as in its configuration"
        )
    return text


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidAddress(f"is not UTF-8 text; {_FORMS}") from None
    if any(c < " " or c == "\x7f" for c in text):
        raise InvalidAddress(f"has a control character; {_FORMS}")


def _scheme(text: str) -> tuple[str, str]:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise InvalidAddress(f"not a Redis address; {_FORMS}")
    return scheme.lower(), rest


def _credentials(user_info: str) -> dict[str, str]:
    user, _, password = user_info.partition(":")
    given = {"username": _decoded(user), "password": _decoded(password)}
    return {name: value for name, value in given.items() if value}


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidAddress("has escapes that are not UTF-8; escape each byte of the UTF-8 text") from None


def _host_and_port(text: str, default: int) -> Node:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_ipv6(host := _decoded(host)) or rest[:1] not in ("", ":"):
            raise InvalidAddress("the host is not an IPv6 address; write redis://[ADDRESS]:6379/0")
        return host, _port(rest, default)
    host, colon, port = text.partition(":")
    if not host:
        raise InvalidAddress("the host is missing; write redis://HOST:6379/0")
    if ":" in port and _is_ipv6(text):
        raise InvalidAddress("the IPv6 address has no brackets; write redis://[ADDRESS]:6379/0")
    if "," in text:
        raise InvalidAddress(
            "names several hosts; write redis+sentinel://HOST:26379,HOST:26379/MASTER for Sentinels, "
            "redis+cluster://HOST:6379,HOST:6379 for a cluster, or the one host of a Redis"
        )
    if not _HOST.match(host.lower()):
        raise InvalidAddress("the host is not a name or address; write redis://HOST:6379/0")
    return host, _port(colon + port, default)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _port(text: str, default: int) -> int:
    """`text` is empty or begins with a colon."""
    if not text:
        return default
    if not _PORT.match(text[1:]) or not 1 <= int(text[1:]) <= 65535:
        raise InvalidAddress(
            "the port is not a number between 1 and 65535; write one such as 6379, and a ':' or '/' of the password as "
            "%3A or %2F"
        )
    return int(text[1:])


def _database(path: str, option: int | None) -> int:
    text = path.removeprefix("/").removesuffix("/")
    if text and not _DATABASE.match(text):
        raise InvalidAddress("the database is not a number; write one such as /0 after the port")
    if text and option not in (None, int(text)):
        raise InvalidAddress("names two databases; write one of /NUMBER and ?db=NUMBER")
    return int(text) if text else option or 0


def _socket(path: str, options: dict[str, Any]) -> RedisAddress:
    if not path.strip("/"):
        raise InvalidAddress("the path of the socket is missing; write unix:///PATH")
    db = options.pop("db", 0)
    return RedisAddress(path=at_socket(path).path, db=db, options=MappingProxyType(options))


def _options(query: str, *, tls: bool, sentinel: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidAddress(
                "has a part after '?' that is not an option; write NAME=VALUE, and ? or & in a password as %3F or %26"
            )
        if name in options:
            raise InvalidAddress(f"has the option {name} twice; keep one of them")
        read = _reader(name, tls=tls, sentinel=sentinel, quotable="password" not in options)
        try:
            options[name] = read(_decoded(value.replace("+", " ")))
        except _InvalidValue as error:
            raise InvalidAddress(f"the option {name} {error}") from None
    return options


def _reader(name: str, *, tls: bool, sentinel: bool, quotable: bool) -> Callable[[str], Any]:
    """A name behind a password can be a part of it, after a '&' that is not escaped."""
    if name in _SET_BY_US:
        raise InvalidAddress(f"the option {name} is set by vLLama; remove it")
    if name in ("ssl", "tls"):
        raise InvalidAddress(f"unknown option {name}; write rediss:// for TLS")
    if name in _TLS_OPTIONS and not tls:
        raise InvalidAddress(f"the option {name} is for TLS; write rediss:// or remove it")
    if name in _SENTINEL_OPTIONS and not sentinel:
        raise InvalidAddress(f"the option {name} is for Sentinels; write redis+sentinel:// or remove it")
    known = {**_OPTIONS, **_TLS_OPTIONS, **_SENTINEL_OPTIONS}
    if name in known:
        return known[name]
    if not quotable or not re.fullmatch(r"[a-z][a-z_]{0,39}", name):
        raise InvalidAddress("has an unknown option; remove it, and write & in a value as %26")
    near = difflib.get_close_matches(name, known, 1)
    raise InvalidAddress(f"unknown option {name}; " + (f"did you mean {near[0]}?" if near else "remove it"))


class _InvalidValue(ValueError):
    """`str()` continues "the option NAME …"."""


def _text(value: str) -> str:
    if not value:
        raise _InvalidValue("is empty; give it a value or remove it")
    return value


def _word(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise _InvalidValue("has blanks or is not ASCII; write one word")
    return value


def _number(value: str) -> int:
    if not _DATABASE.match(value):
        raise _InvalidValue("is not a number; write one such as 0")
    return int(value)


def _switch(value: str) -> bool:
    if value.lower() not in _SWITCHES:
        raise _InvalidValue("is not true or false; write one of them")
    return _SWITCHES[value.lower()]


def _verification(value: str) -> str:
    mode = value.lower().removeprefix("cert_")
    if mode not in ("none", "optional", "required"):
        raise _InvalidValue("is not none, optional or required; write one of them")
    return mode


_SWITCHES = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _number,
    "username": _text,
    "password": _text,
    "client_name": _word,
    "socket_keepalive": _switch,
}
_SENTINEL_OPTIONS: dict[str, Callable[[str], Any]] = {"sentinel_username": _text, "sentinel_password": _text}
_TLS_OPTIONS: dict[str, Callable[[str], Any]] = {
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _switch,
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_password": _text,
}
_SET_BY_US = frozenset(
    {
        *("host", "port", "path", "decode_responses", "encoding", "encoding_errors", "protocol", "legacy_responses"),
        *("single_connection_client", "health_check_interval", "max_connections", "timeout", "socket_timeout"),
        *("socket_connect_timeout", "socket_read_size", "retry", "retry_on_timeout", "retry_on_error"),
    }
)

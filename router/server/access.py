"""Who may come in. Decided for every request before anything else looks at it; pure.

In Ollama's order: the Origin, then the Host that was addressed, then (ours) the key.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from vllama_pool.config.api_keys import ApiKey, digest, identify
from vllama_pool.config.listen import is_loopback
from vllama_pool.config.settings import PRIVATE, RouterSettings
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.cors import Headers, Origins, same_host

_OPEN = frozenset({"/", "/health"})
"""Answered without a key: whether a server is here at all."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDING = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_BEARER = re.compile(r"Bearer +([^ ]+) *\Z", re.IGNORECASE)
_SLASHES = re.compile(r"/+")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    name: str = ""
    """The API key's name; empty for an anonymous request."""
    admin: bool = False
    """Whether operations on the fleet are open to it. Decided for the paths of operations only."""


ANONYMOUS = Identity()


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may pass."""

    identity: Identity = ANONYMOUS
    headers: Headers = ()
    """To be added to the answer, whatever it will be."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The request goes no further, this is its whole answer: a refusal, or the 204 of an OPTIONS request."""

    status: int
    body: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request is looked at. Header values as sent, None where absent."""

    method: str
    path: str
    host: str | None = None
    origin: str | None = None
    authorization: str | None = None
    x_api_key: str | None = None
    """The header by which Anthropic's clients send a key."""
    fetch_site: str | None = None
    """Sec-Fetch-Site, by which a browser says where the page stands that asks."""
    client: str | None = None
    """The peer's address; None where there is none, as on a unix socket."""
    server: str | None = None
    """The address of this end of the connection."""
    forwarded: bool = False
    """Whether a proxy says that the request came from elsewhere."""

    @property
    def local(self) -> bool:
        """Whether this machine itself asks: over loopback, or from the very address that it connected to.

        A proxy on this machine counts as it, but for requests that it forwards and says so. Those of a proxy
        that adds no header, or that passes on TCP alone, cannot be told apart.
        """
        if self.client is None or self.forwarded:
            return False
        return is_loopback(self.client) or self.client == self.server


def asked(scope: Mapping[str, Any]) -> Asked:
    """An ASGI HTTP scope's part in the decision. Of a header that is repeated, the first counts."""
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value.decode("latin-1"))
    client, server = scope.get("client"), scope.get("server")
    return Asked(
        method=scope["method"],
        path=scope["path"],
        host=headers.get(b"host"),
        origin=headers.get(b"origin"),
        authorization=headers.get(b"authorization"),
        x_api_key=headers.get(b"x-api-key"),
        fetch_site=headers.get(b"sec-fetch-site"),
        client=client[0] if client else None,
        server=server[0] if server else None,
        forwarded=not _FORWARDING.isdisjoint(headers),
    )


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server, fixed at its start."""

    guarded: bool = True
    """Whether the Host header is checked, against DNS rebinding (R183): on loopback as Ollama does it, and
    wherever host names were configured."""
    allowed_hosts: frozenset[str] = frozenset()
    """Lower case; "*.example.com" stands for everything below it."""
    own_names: frozenset[str] = frozenset()
    """This machine's name and addresses, lower case."""
    origins: Origins = field(default_factory=Origins)
    keys: tuple[ApiKey, ...] = ()
    anonymous: bool = True
    """Whether a request without a key may pass."""
    admin_digest: bytes | None = None
    """SHA-256 of the key that opens operations to other machines."""

    @classmethod
    def of(cls, settings: RouterSettings, own_names: Iterable[str] = ()) -> Access:
        """The rules that the settings make. `own_names` are the machine's, such as socket.gethostname()'s."""
        admin_key = settings.admin_key
        return cls(
            guarded=is_loopback(settings.host) or bool(settings.allowed_hosts),
            allowed_hosts=frozenset(settings.allowed_hosts),
            own_names=frozenset(name.lower() for name in own_names if name),
            origins=Origins(settings.origins),
            keys=settings.api_keys,
            anonymous=not settings.api_keys or settings.allow_anonymous,
            admin_digest=digest(admin_key.get_secret_value()) if admin_key else None,
        )

    def decide(self, request: Asked) -> Allowed | Denied:
        origin, host = request.origin, request.host or ""
        headers: Headers = ()
        if origin and not same_host(origin, host):
            if not self.origins.allows(origin):
                return Denied(403)
            if request.method == "OPTIONS":
                return Denied(204, headers=self.origins.preflight(origin))
            headers = self.origins.headers(origin)
        elif self._is_foreign_page(request):
            return Denied(403)
        if self.guarded and not self._is_addressed(host, request.server):
            return Denied(403)
        if request.method == "OPTIONS":
            return Denied(204)
        return self._admit(request, headers)

    def _is_foreign_page(self, request: Asked) -> bool:
        """A page of another site makes the browser post a form, and no Origin says so. Every browser sends an
        Origin with a POST that a script makes, so no client of ours is refused."""
        return (
            request.fetch_site == "cross-site"
            and not request.origin
            and request.method not in _SAFE_METHODS
            and not self.origins.any
        )

    def _is_addressed(self, host: str, server: str | None) -> bool:
        name = _without_port(host).lower()
        if name in ("", "localhost", "127.0.0.1", server) or name in self.own_names or name in self.allowed_hosts:
            return True
        if name.endswith(_LOCAL_SUFFIXES):
            return True
        if self.allowed_hosts and any(f"*{name[dot:]}" in self.allowed_hosts for dot in _dots(name)):
            return True
        return _is_near_address(name)

    def _admit(self, request: Asked, headers: Headers) -> Allowed | Denied:
        path = plain_path(request.path)
        if path in _OPEN and request.method in _SAFE_METHODS:
            return Allowed(headers=headers)
        if _is_operations(path):
            return self._admit_operator(request, path, headers)
        secret = _secret(request)
        name = identify(secret, self.keys) if secret and self.keys else None
        if name is not None:
            return Allowed(Identity(name), headers)
        if self.anonymous:
            return Allowed(headers=headers)
        return _unauthorized(path, headers)

    def _admit_operator(self, request: Asked, path: str, headers: Headers) -> Allowed | Denied:
        """Operations and metrics: for this machine, and for whoever has the key of their own.

        Without the key the Host counts on every address: a page that has its name rebound to this machine is
        loaded by a browser of this machine.
        """
        if request.local and self._is_addressed(request.host or "", request.server):
            return Allowed(Identity(admin=True), headers)
        if self.admin_digest is None:
            text = "only from the router's own machine; set VLLAMA_ADMIN_KEY to open it to others"
            return Denied(403, error_body(path, 403, text), (_JSON, *headers))
        secret = _secret(request)
        if secret and hmac.compare_digest(digest(secret), self.admin_digest):
            return Allowed(Identity("admin", admin=True), headers)
        return _unauthorized(path, headers)


def plain_path(path: str) -> str:
    """A path as the router's routes see it: "//metrics/" is "/metrics". Whoever asks must not be able to
    spell a path so that it is judged as one thing and served as another."""
    return _SLASHES.sub("/", f"/{path.strip('/')}")


_JSON = (b"content-type", b"application/json; charset=utf-8")


def _unauthorized(path: str, headers: Headers) -> Denied:
    body = error_body(path, 401, "unauthorized")
    return Denied(401, body, (_JSON, (b"www-authenticate", b"Bearer"), *headers))


def _is_operations(path: str) -> bool:
    path = path.lower()
    return path == "/metrics" or path == "/admin" or path.startswith(("/admin/", "/metrics/"))


def _secret(request: Asked) -> str | None:
    if request.authorization:
        bearer = _BEARER.match(request.authorization)
        if bearer:
            return bearer.group(1)
    return request.x_api_key or None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, _ = host.rpartition(":")
    return name if colon and ":" not in name else host


def _dots(name: str) -> Iterable[int]:
    return (i for i, character in enumerate(name) if character == ".")


def _is_near_address(name: str) -> bool:
    """A loopback, private or unspecified address as such: no name, so nobody can have rebound it."""
    try:
        address = ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or any(address in network for network in PRIVATE)

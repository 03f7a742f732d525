"""Access control from a request's head: Origin, then Host, as Ollama does, then the API key. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from vllama_pool.config.api_keys import digest, identify
from vllama_pool.config.listen import is_loopback
from vllama_pool.config.settings import PRIVATE, RouterSettings
from vllama_pool.router.admission.grant import NAMELESS, Grant
from vllama_pool.router.protocol.error_bodies import error_body, speaks_anthropic, speaks_openai
from vllama_pool.router.server.asgi import Scope, header, request_headers
from vllama_pool.router.server.cors import Headers, Origins, same_host
from vllama_pool.router.server.refusal import (
    Refusal,
    admin_from_elsewhere,
    cross_site,
    foreign_host,
    foreign_origin,
    missing_key,
    unknown_key,
)

REMEMBERED_DECISIONS = 1024
REMEMBERED_LENGTH = 256
"""Bytes of a request's path, Host and Origin. Bounds the memory that clients can fill."""

_KEYLESS_PATHS = frozenset({"/", "/health", "/livez"})
_READY_PATH = "/readyz"
"""Keyless too, but names models only to clients with a key or on this machine."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDING_HEADERS = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
_UNREMEMBERED_HEADERS = _FORWARDING_HEADERS | {b"sec-fetch-site"}
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_BEARER = re.compile(r"Bearer +([^ ]+) *\Z", re.IGNORECASE)
_SLASHES = re.compile(r"/+")
_UNAUTHORIZED = "unauthorized"
_NO_KEY = "the request has no API key; send one of this server's as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
_WRONG_KEY = "the API key is wrong; send one of this server's"
_BEARER_ONLY = (b"www-authenticate", b"Bearer")


@dataclass(frozen=True, slots=True)
class Allowed:
    key_name: str = ""
    """"" for an anonymous request."""
    headers: Headers = ()
    """Added to the response."""
    grant: Grant | None = None
    """The key's; None for an anonymous request."""


@dataclass(frozen=True, slots=True)
class EarlyResponse:
    """The complete response to a refused request or to OPTIONS."""

    status: int
    text: str = ""
    """Of the error; without it, the body is empty."""
    headers: Headers = ()
    refusal: Refusal | None = None
    """None for OPTIONS."""
    code: str | None = None
    """Of OpenAI's error."""

    def body(self, path: str, request_id: str) -> bytes:
        return error_body(path, self.status, self.text, request_id, code=self.code) if self.text else b""


class AccessRequest(NamedTuple):
    """The parts of a request that decide on its access. Header values as sent, None if absent."""

    method: str
    path: str
    host: str | None = None
    origin: str | None = None
    authorization: str | None = None
    x_api_key: str | None = None
    """Sent by Anthropic's clients."""
    fetch_site: str | None = None
    client: str | None = None
    """The peer's address; None on a Unix socket."""
    server: str | None = None
    """This end's address."""
    forwarded: bool = False
    """A proxy has added a forwarding header."""

    @property
    def local(self) -> bool:
        """True if the client connects over loopback or from the address it connects to, without a forwarding header.

        Clients of a TCP proxy on this machine, which adds no header, count as local.
        """
        if self.client is None or self.forwarded:
            return False
        return is_loopback(self.client) or self.client == self.server

    @classmethod
    def from_scope(cls, scope: Scope) -> AccessRequest:
        """Read an ASGI HTTP scope. The first of repeated headers wins."""
        client, server = scope.get("client"), scope.get("server")
        return cls(
            method=scope["method"],
            path=scope["path"],
            host=header(scope, b"host"),
            origin=header(scope, b"origin"),
            authorization=header(scope, b"authorization"),
            x_api_key=header(scope, b"x-api-key"),
            fetch_site=header(scope, b"sec-fetch-site"),
            client=client[0] if client else None,
            server=server[0] if server else None,
            forwarded=not _FORWARDING_HEADERS.isdisjoint(request_headers(scope)),
        )


@dataclass(frozen=True, slots=True)
class Access:
    check_host: bool = True
    """Protects against DNS rebinding (R183)."""
    allowed_hosts: frozenset[str] = frozenset()
    """Lower case; "*.example.com" matches every name below it."""
    own_names: frozenset[str] = frozenset()
    """This machine's names, lower case."""
    origins: Origins = field(default_factory=Origins)
    keys: Mapping[bytes, Grant] = field(default_factory=dict)
    """By SHA-256 digest."""
    allow_anonymous: bool = True
    admin_digest: bytes | None = None
    """SHA-256 of the key that opens /admin and /metrics to other machines."""

    @property
    def ignores_credentials(self) -> bool:
        """True if no key is configured. Clients of OpenAI's API send one nevertheless."""
        return self.allow_anonymous and not self.keys and self.admin_digest is None

    @classmethod
    def from_settings(
        cls, settings: RouterSettings, keys: Mapping[bytes, Grant], own_names: Iterable[str] = ()
    ) -> Access:
        """Check the Host header on loopback, as Ollama does, and if host names are configured."""
        admin_key = settings.admin_key
        return cls(
            check_host=is_loopback(settings.host) or bool(settings.allowed_hosts),
            allowed_hosts=frozenset(settings.allowed_hosts),
            own_names=frozenset(name.lower() for name in own_names if name),
            origins=Origins(settings.origins),
            keys=keys,
            allow_anonymous=not keys or settings.allow_anonymous,
            admin_digest=digest(admin_key.get_secret_value()) if admin_key else None,
        )

    def decide(self, request: AccessRequest) -> Allowed | EarlyResponse:
        origin, host = request.origin, request.host or ""
        headers: Headers = ()
        if origin and not same_host(origin, host):
            if not self.origins.allows(origin):
                return _forbidden(foreign_origin(origin, configured=self.origins.has_extra))
            if request.method == "OPTIONS":
                return EarlyResponse(204, headers=self.origins.preflight(origin))
            headers = self.origins.headers(origin)
        elif self._is_foreign_page(request):
            return _forbidden(cross_site(request.path))
        if self.check_host and not self._is_own_host(host, request.server):
            return _forbidden(foreign_host(host, _without_port(host).lower(), configured=bool(self.allowed_hosts)))
        if request.method == "OPTIONS":
            return EarlyResponse(200 if request.path == "*" else 204)
        return self._authorize(request, headers)

    def _is_foreign_page(self, request: AccessRequest) -> bool:
        """True for a form post from another site, which has no Origin. Scripts always send one."""
        return (
            request.fetch_site == "cross-site"
            and not request.origin
            and request.method not in _SAFE_METHODS
            and not self.origins.allow_any
        )

    def _is_own_host(self, host: str, server: str | None) -> bool:
        name = _without_port(host).lower()
        name = name[:-1] if len(name) > 1 and name.endswith(".") else name  # the root of DNS
        if name in ("", "localhost", "127.0.0.1", server) or name in self.own_names or name in self.allowed_hosts:
            return True
        if name.endswith(_LOCAL_SUFFIXES):
            return True
        if self.allowed_hosts and any(f"*{name[dot:]}" in self.allowed_hosts for dot in _dots(name)):
            return True
        return _is_private_address(name)

    def _authorize(self, request: AccessRequest, headers: Headers) -> Allowed | EarlyResponse:
        path = normalize_path(request.path)
        if path in _KEYLESS_PATHS and request.method in _SAFE_METHODS:
            return Allowed(headers=headers)
        if _is_admin(path):
            return self._authorize_admin(request, path, headers)
        secret = _secret(request)
        grant = identify(secret, self.keys) if secret and self.keys else None
        if grant is not None:
            return Allowed(grant.name, headers, grant)
        if self.allow_anonymous:
            return Allowed(headers=headers)
        if path == _READY_PATH and request.method in _SAFE_METHODS:
            return Allowed(headers=headers, grant=None if self._opens_admin(request, secret) else NAMELESS)
        refusal = (unknown_key if secret else missing_key)(request.client or "")
        return _unauthorized(_unauthorized_text(path, wrong=bool(secret)), headers, refusal)

    def _authorize_admin(self, request: AccessRequest, path: str, headers: Headers) -> Allowed | EarlyResponse:
        """Admit local requests and the admin key.

        Local requests need an own Host even on public addresses: DNS rebinding makes a local browser send a foreign
        page's requests.
        """
        if self._is_local_admin(request):
            return Allowed(headers=headers)
        if self.admin_digest is None:
            text = "only from the router's own machine; set VLLAMA_ADMIN_KEY to open it to others"
            refusal = admin_from_elsewhere(path, request.client or "")
            return EarlyResponse(403, text, headers, refusal)
        secret = _secret(request)
        if secret and hmac.compare_digest(digest(secret), self.admin_digest):
            return Allowed("admin", headers)
        refusal = (unknown_key if secret else missing_key)(request.client or "", admin=True)
        return _unauthorized(_UNAUTHORIZED, headers, refusal)

    def _is_local_admin(self, request: AccessRequest) -> bool:
        return request.local and self._is_own_host(request.host or "", request.server)

    def _opens_admin(self, request: AccessRequest, secret: str | None) -> bool:
        if self._is_local_admin(request):
            return True
        known = self.admin_digest
        return secret is not None and known is not None and hmac.compare_digest(digest(secret), known)


_Short: TypeAlias = tuple[str, str, bytes | None, bytes | None, str | None, str | None, bytes | None]
"""Method, path, Host, Origin, the addresses of client and server, and the digest of credentials."""


class AccessDecisions:
    """Decides on requests, and remembers the decisions on short ones, because clients repeat them.

    Of credentials, only those that open access are remembered, as a digest.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._ignores_credentials = access.ignores_credentials
        self._remembered: dict[_Short, Allowed | EarlyResponse] = {}

    def decide(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Allowed | EarlyResponse:
        """`headers`: the scope's `request_headers`."""
        if not _UNREMEMBERED_HEADERS.isdisjoint(headers):
            return self._access.decide(AccessRequest.from_scope(scope))
        client, server, find = scope.get("client"), scope.get("server"), headers.get
        secret = None if self._ignores_credentials else _digest(find(b"authorization"), find(b"x-api-key"))
        source, target = client[0] if client else None, server[0] if server else None
        short = scope["method"], scope["path"], find(b"host"), find(b"origin"), source, target, secret
        decision = self._remembered.get(short)
        return self._decide(short, scope) if decision is None else decision

    def _decide(self, short: _Short, scope: Scope) -> Allowed | EarlyResponse:
        decision = self._access.decide(AccessRequest.from_scope(scope))
        opens = short[-1] is None or (isinstance(decision, Allowed) and decision.key_name)
        if opens and sum(len(part) for part in short[:4] if part) <= REMEMBERED_LENGTH:
            if len(self._remembered) >= REMEMBERED_DECISIONS:
                self._remembered.clear()
            self._remembered[short] = decision
        return decision


def _digest(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    if authorization or x_api_key:
        return blake2b(b"%b\n%b" % (authorization or b"", x_api_key or b""), digest_size=32).digest()
    return None


def normalize_path(path: str) -> str:
    """Normalise slashes as Litestar's routes do, so that no spelling of a path bypasses its rule."""
    return _SLASHES.sub("/", f"/{path.strip('/')}")


def _forbidden(refusal: Refusal) -> EarlyResponse:
    """Ollama's empty response."""
    return EarlyResponse(403, refusal=refusal)


def _unauthorized(text: str, headers: Headers, refusal: Refusal) -> EarlyResponse:
    return EarlyResponse(401, text, (_BEARER_ONLY, *headers), refusal, "invalid_api_key")


def _unauthorized_text(path: str, *, wrong: bool) -> str:
    """Ollama's text, or one for OpenAI's and Anthropic's clients, which show it to the user alone."""
    if not (speaks_openai(path) or speaks_anthropic(path)):
        return _UNAUTHORIZED
    return _WRONG_KEY if wrong else _NO_KEY


def _is_admin(path: str) -> bool:
    path = path.lower()
    return path == "/metrics" or path == "/admin" or path.startswith(("/admin/", "/metrics/"))


def _secret(request: AccessRequest) -> str | None:
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


def _is_private_address(name: str) -> bool:
    """True for a loopback, private or unspecified address. Addresses cannot be rebound."""
    try:
        address = ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or any(address in network for network in PRIVATE)

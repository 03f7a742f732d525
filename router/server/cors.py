"""Ollama's CORS rules (R181). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

Headers = tuple[tuple[bytes, bytes], ...]

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")
_DESKTOP = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_REQUEST_HEADERS = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
    b"X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    b"X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    b"X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,"
    b"X-Stainless-Custom-Event-Handler,X-Stainless-Helper,X-Stainless-Raw-Response,X-Stainless-Read-Timeout,"
    b"X-Stainless-Stream-Helper,X-Vllama-Trace"
)
"""Ollama's, in the last two lines the others of the SDKs of OpenAI and Anthropic, and our own."""
_MAX_AGE = b"43200"


class Origins:
    """Allowed origins. Credentials are never allowed, because keys are not cookies."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        """`extra`: origins besides this machine's and desktop apps'; `*` matches any part."""
        extra = tuple(extra)
        self.has_extra = bool(extra)
        patterns = [*extra, *_DESKTOP]
        for host in _LOCAL:
            for scheme in ("http", "https"):
                patterns += [f"{scheme}://{host}", f"{scheme}://{host}:*"]
        self.allow_any = "*" in patterns
        self._exact = frozenset(origin.lower() for origin in patterns if "*" not in origin)
        self._patterns = tuple(_pattern(origin) for origin in patterns if "*" in origin)

    def allows(self, origin: str) -> bool:
        origin = origin.lower()
        return self.allow_any or origin in self._exact or any(p.match(origin) for p in self._patterns)

    def headers(self, origin: str) -> Headers:
        if self.allow_any:
            return ((b"access-control-allow-origin", b"*"),)
        return ((b"vary", b"Origin"), (b"access-control-allow-origin", origin.encode("latin-1", "replace")))

    def preflight(self, origin: str) -> Headers:
        varies = (
            () if self.allow_any else ((b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),)
        )
        return (
            *self.headers(origin),
            *varies,
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE),
        )


def same_host(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _pattern(origin: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in origin.lower().split("*")) + r"\Z", re.DOTALL)

"""HTTP/1.1 (RFC 9112) as bytes: request heads, and a parser for one response. No I/O.

Ambiguous framing is rejected rather than repaired, as it could deliver one client's tokens to another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from vllama_pool.router.upstream.interface import Endpoint, MalformedResponse
from vllama_pool.workers.vllm.connection_problem import TLS_PORT, speaks_tls

MAX_HEAD = 64 * 1024
"""Maximum bytes of a response head, and of framing between two pieces of body."""
MAX_HEADERS = 128

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"/[!-~]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset(("connection", "content-length", "expect", "keep-alive", "te", "trailer", "upgrade"))
_RESERVED = _FRAMING | {"transfer-encoding", "host", "authorization"}
_BODY_EXPECTED = frozenset(("POST", "PUT", "PATCH"))


def request_head(endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str], body_size: int) -> bytes:
    """Return the request line and headers, with the empty line after them.

    Raises ValueError for control characters, a path outside printable ASCII, a header name that is not a token or is
    reserved for this client (framing, Host, Authorization), and a header value outside Latin-1.
    """
    target = endpoint.prefix + path
    if _TARGET.fullmatch(target) is None:
        raise ValueError(f"invalid request path {target!r}; use printable ASCII that starts with a slash")
    if _TOKEN.fullmatch(method) is None:
        raise ValueError(f"invalid request method {method!r}; use an HTTP token")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {_authority(endpoint)}"]
    if endpoint.authorization is not None:
        lines.append(f"Authorization: {endpoint.authorization}")
    if body_size or method in _BODY_EXPECTED:
        lines.append(f"Content-Length: {body_size}")
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None or name.lower() in _RESERVED:
            raise ValueError(f"invalid or reserved request header {name!r}; remove it")
        lines.append(f"{name}: {value}")
    if _CONTROL.search("".join(lines)) is not None:
        raise ValueError("the request's head contains a control character; remove it")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _authority(endpoint: Endpoint) -> str:
    host = endpoint.server_name or endpoint.host
    if ":" in host:
        host = f"[{host.partition('%')[0]}]"  # IPv6 zones are local to this host
    return host if endpoint.port == (80 if endpoint.tls is None else 443) else f"{host}:{endpoint.port}"


class ResponseParser:
    """Parses one response. Check the flags after each `feed`.

    Errors are stored rather than raised, so that body bytes before an error are not lost. One parser per response, as
    llhttp cannot continue after an error, nor skip the body of a response to HEAD.
    """

    def __init__(self, method: str) -> None:
        self.status = 0
        """0 until the final head is complete; 1xx are skipped."""
        self.headers: dict[str, str] = {}
        """Names in lower case; repeated headers are joined by ", "."""
        self.started = False
        self.complete = False
        self.keep_alive = False
        """True if the head allows it."""
        self.extra = False
        """True if bytes came after the end of the response."""
        self.error: MalformedResponse | None = None
        self._no_body = method == "HEAD"
        self._until_close = False
        self._head_size = 0
        self._framing_size = 0
        self._body_pieces = 0
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called from C, once per chunk: no Python frame
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Parse the bytes of one read and return their body bytes."""
        if self._parser is None:
            self.extra = True
            return b""
        self.started = True
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.complete:
                self.extra = True
            else:
                why = TLS_PORT if speaks_tls(data) else error
                self.error = self.error or MalformedResponse(f"the worker's bytes are not HTTP: {why}")
        pieces = self._pieces
        if self.complete and len(pieces) > self._body_pieces:
            self.extra = True
            del pieces[self._body_pieces :]
        if pieces:
            self._framing_size = 0
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
        else:
            body = b""
            self._framing_size += len(data)
            if self._framing_size > MAX_HEAD and not self.complete:
                self.error = self.error or MalformedResponse("too many bytes of framing without body")
        if self.complete or self.error is not None:
            self.stop()
        return body

    def eof(self) -> bool:
        """End the input. Return True if the response is complete."""
        if self.status and self._until_close and self.error is None:
            self.complete = True
        self.stop()
        return self.complete

    def stop(self) -> None:
        """Break the reference cycle with llhttp."""
        self._parser = None

    # called by llhttp

    def on_message_begin(self) -> None:
        if self.complete:
            self.extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            self._reject("the response head is too large")
        if self.status:
            return  # trailers are ignored
        if len(self.headers) >= MAX_HEADERS:
            self._reject("too many response headers")
        key = name.decode("ascii").lower()
        text = value.decode("latin-1")
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None or self.complete:
            return
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._reject(f"unexpected status {status}")
            self.headers.clear()
            return
        self._check_framing(parser.get_http_version())
        self.keep_alive = parser.should_keep_alive()
        self.status = status
        if self._no_body:
            self.complete = True
        self._until_close = "content-length" not in self.headers and "transfer-encoding" not in self.headers

    def on_message_complete(self) -> None:
        if self.status and not self.complete:
            self.complete = True
            self._body_pieces = len(self._pieces)

    def _check_framing(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            self._reject(f"HTTP version {version}")
        encoding = self.headers.get("transfer-encoding")
        if encoding is None:
            return
        # llhttp rejects only a part of these.
        if encoding.lower() != "chunked" or "content-length" in self.headers or version == "1.0":
            self._reject("the response's length is ambiguous")

    def _reject(self, why: str) -> None:
        self.error = MalformedResponse(why)
        raise self.error  # stops llhttp; `feed` catches it

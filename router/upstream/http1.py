"""HTTP/1.1 (RFC 9112) as bytes: request heads, and a parser for one response. No I/O.

Ambiguous framing is rejected rather than repaired, as it could deliver one client's tokens to another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from vllama_pool.router.upstream.interface import Endpoint, Headers, MalformedResponse
from vllama_pool.workers.vllm.connection_problem import TLS_PORT, speaks_tls

MAX_HEAD = 64 * 1024
"""Maximum bytes of a response head, and of framing between two pieces of body."""
MAX_HEADERS = 128
MAX_PREFIXES = 10_000
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"/[!-~]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset(("connection", "content-length", "expect", "keep-alive", "te", "trailer", "upgrade"))
_RESERVED = _FRAMING | {"transfer-encoding", "host", "authorization"}

_OTHER_LINES = rb"(?:(?!(?i:content-length|transfer-encoding))[^\r]+\r\n){0,50}+"
_USUAL_HEAD = re.compile(
    rb"HTTP/1\.1 200 [^\r]*\r\n%b(?i:content-length: [0-9]+|transfer-encoding: chunked)\r\n%b\r\n"
    % (_OTHER_LINES, _OTHER_LINES)
)
"""A whole head with status 200 and one header of framing, as vLLM sends it. Its framing cannot be ambiguous, and the
router reads no other header of it."""


class RequestHeads:
    """Makes request heads. What those of one kind have in common is built and checked once."""

    def __init__(self) -> None:
        self._prefixes: dict[tuple[Endpoint, str, str, Headers], bytes] = {}

    def get(
        self, endpoint: Endpoint, method: str, path: str, headers: Headers, request_id: str, body_size: int
    ) -> bytes:
        """Return the request line and headers, with the empty line after them.

        Raises ValueError for control characters, a path outside printable ASCII, a header name that is not a token or
        is reserved for this client (framing, Host, Authorization), a header value outside Latin-1, and a request id
        outside printable ASCII.
        """
        kind = endpoint, method, path, headers
        prefix = self._prefixes.get(kind)
        if prefix is None:
            if len(self._prefixes) >= MAX_PREFIXES:  # workers come and go
                self._prefixes.clear()
            prefix = self._prefixes[kind] = _head_lines(endpoint, method, path, headers)
        if not (request_id.isascii() and request_id.isprintable()):
            raise ValueError("the request id is not printable ASCII; replace it")
        return b"%bx-request-id: %b\r\nContent-Length: %d\r\n\r\n" % (prefix, request_id.encode(), body_size)


def _head_lines(endpoint: Endpoint, method: str, path: str, headers: Headers) -> bytes:
    """Return the checked lines of a request head, without request id, Content-Length and the final empty line."""
    target = endpoint.prefix + path
    if _TARGET.fullmatch(target) is None:
        raise ValueError(f"invalid request path {target!r}; use printable ASCII that starts with a slash")
    if _TOKEN.fullmatch(method) is None:
        raise ValueError(f"invalid request method {method!r}; use an HTTP token")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {_authority(endpoint)}"]
    if endpoint.authorization is not None:
        lines.append(f"Authorization: {endpoint.authorization}")
    for name, value in headers:
        if _TOKEN.fullmatch(name) is None or name.lower() in _RESERVED:
            raise ValueError(f"invalid or reserved request header {name!r}; remove it")
        lines.append(f"{name}: {value}")
    if _CONTROL.search("".join(lines)) is not None:
        raise ValueError("the request's head contains a control character; remove it")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


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

    __slots__ = (
        *("complete", "error", "extra", "headers", "keep_alive", "on_body", "on_header", "over"),
        *("started", "status", "_body_pieces", "_fields", "_framing_size", "_head_size", "_no_body", "_parser"),
        *("_pieces", "_until_close", "_usual_heads"),
    )

    on_status = on_chunk_header = on_chunk_complete = None  # unused; httptools is slow to find that they are missing

    def __init__(self, method: str, usual_heads: UsualHeads | None = None) -> None:
        """`usual_heads`: shared by many responses."""
        self.status = 0
        """0 until the final head is complete; 1xx are skipped."""
        self.started = self.complete = self._until_close = False
        self.over = False
        """True if complete or failed."""
        self.keep_alive = False
        """True if the head allows it."""
        self.extra = False
        """True if bytes came after the end of the response."""
        self.error: MalformedResponse | None = None
        self.headers = NO_HEADERS
        """Names in lower case; repeated headers are joined by ", "."""
        self.on_header: Callable[[bytes, bytes], None] | None = None
        """None for a usual head: llhttp then makes no objects of its fields."""
        self._no_body = method == "HEAD"
        self._usual_heads = usual_heads or UsualHeads()
        self._framing_size = self._body_pieces = 0
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called from C, once per chunk: no Python frame
        self._parser: HttpResponseParser | None = None

    def feed(self, data: bytes) -> bytes:
        """Parse the bytes of one read and return their body bytes."""
        parser = self._parser
        if parser is None:
            if self.started:
                self.extra = True
                return b""
            parser = self._start(data)
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._record_error(error, data)
        pieces = self._pieces
        if pieces and not self.over:  # nearly every read
            self._framing_size = 0
            body = b"".join(pieces)
            pieces.clear()
            return body
        return self._feed_end(len(data))

    def _feed_end(self, size: int) -> bytes:
        """Take the body bytes of a read of `size` bytes in which the response ended, or that has framing only."""
        pieces = self._pieces
        if self.complete and len(pieces) > self._body_pieces:
            self.extra = True
            del pieces[self._body_pieces :]
        body = b"".join(pieces)
        pieces.clear()
        if not self.complete:
            self._framing_size += size
            if self._framing_size > MAX_HEAD and not body:
                self._set_error("too many bytes of framing without body")
        if self.over:
            self._parser = None
        return body

    def _record_error(self, error: Exception, data: bytes) -> None:
        if self.complete:
            self.extra = True
        else:
            why = TLS_PORT if speaks_tls(data) else error
            self._set_error(f"the worker's bytes are not HTTP: {why}")

    def _set_error(self, why: str) -> None:
        self.over = True
        self.error = self.error or MalformedResponse(why)

    def eof(self) -> bool:
        """End the input. Return True if the response is complete."""
        if self.status and self._until_close and self.error is None:
            self.complete = self.over = True
        self.stop()
        return self.complete

    def stop(self) -> None:
        """Break the reference cycles. The parser accepts no more bytes."""
        self.started = True
        self._parser = self.on_header = None

    def _start(self, data: bytes) -> HttpResponseParser:
        self.started = True
        usual = None if self._no_body else self._usual_heads.headers(data)
        if usual is not None:
            self.headers = usual
        else:
            self._fields: dict[str, str] = {}
            self.headers = self._fields
            self._head_size = 0
            self.on_header = self._add_header
        self._parser = HttpResponseParser(self)
        return self._parser

    # called by llhttp

    def on_message_begin(self) -> None:
        if self.complete:
            self.extra = True

    def _add_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            self._reject("the response head is too large")
        if self.status:
            return  # trailers are ignored
        if len(self._fields) >= MAX_HEADERS:
            self._reject("too many response headers")
        key = name.decode("ascii").lower()
        text = value.decode("latin-1")
        known = self._fields.get(key)
        self._fields[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None or self.complete:
            return
        status = parser.get_status_code()
        if self.on_header is not None:
            if status < 200:
                if status < 100 or status == 101:
                    self._reject(f"unexpected status {status}")
                self._fields.clear()
                return
            self._check_framing(parser.get_http_version())
        self.keep_alive = parser.should_keep_alive()
        self.status = status
        if self._no_body:
            self.complete = self.over = True

    def on_message_complete(self) -> None:
        if self.status and not self.complete:
            self.complete = self.over = True
            self._body_pieces = len(self._pieces)

    def _check_framing(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            self._reject(f"HTTP version {version}")
        encoding = self._fields.get("transfer-encoding")
        self._until_close = encoding is None and "content-length" not in self._fields
        if encoding is None:
            return
        # llhttp rejects only a part of these.
        if encoding.lower() != "chunked" or "content-length" in self._fields or version == "1.0":
            self._reject("the response's length is ambiguous")

    def _reject(self, why: str) -> None:
        self.over = True
        self.error = MalformedResponse(why)
        raise self.error  # stops llhttp; `feed` catches it


class UsualHeads:
    """Recognises usual heads. Those of one server are equal within a second, so the latest is compared first."""

    def __init__(self) -> None:
        self._latest = _UsualHeaders(b"")

    def headers(self, data: bytes) -> Mapping[str, str] | None:
        """Return the headers of the usual head that `data` begins with."""
        latest = self._latest
        if latest.head and data.startswith(latest.head):
            return latest
        usual = _USUAL_HEAD.match(data)
        if usual is None or usual.end() > MAX_HEAD:
            return None
        self._latest = _UsualHeaders(usual.group())
        return self._latest


class _UsualHeaders(Mapping[str, str]):
    """The headers of a usual head, decoded when they are looked at, which is hardly ever."""

    __slots__ = ("head",)

    def __init__(self, head: bytes) -> None:
        self.head = head

    def __getitem__(self, name: str) -> str:
        return self._decode()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decode())

    def __len__(self) -> int:
        return len(self._decode())

    def _decode(self) -> Mapping[str, str]:
        parser = ResponseParser("HEAD")
        parser.feed(self.head)
        parser.stop()
        return parser.headers

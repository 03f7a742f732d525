"""Minimal HTTP client that keeps header order, raw body and chunk boundaries."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import h11

from vllama_pool.workers.vllm.trust_store import trust_store

MAX_BODY_BYTES = 64 * 1024 * 1024
READ_BYTES = 64 * 1024
OLLAMA_PORT = 11434


class InvalidResponse(Exception):
    """`str()` says what is wrong."""


@dataclass(frozen=True, slots=True)
class RawResponse:
    status: int
    headers: tuple[tuple[str, str], ...]
    """(lower-case name, value), in the order received."""
    body: bytes
    chunks: tuple[bytes, ...] | None
    """None without chunked transfer encoding."""

    def header(self, name: str) -> str | None:
        """First value. `name` is lower-case."""
        return next((value for given, value in self.headers if given == name), None)


@dataclass(frozen=True, slots=True)
class ServerUrl:
    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    """Precedes every request path, without a trailing slash."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> ServerUrl:
    """Without a scheme it is http on Ollama's port. Raises ValueError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"\s", host):
        raise ValueError(f"{url!r} is not the URL of a server; use http://HOST:PORT")
    default = {"http": 80, "https": 443}[parts.scheme] if "://" in url else OLLAMA_PORT
    return ServerUrl(host, port or default, parts.scheme == "https", parts.path.rstrip("/"))


def reason(error: OSError) -> str:
    """The system's text, without the addresses that asyncio adds."""
    number = re.search(r"\[Errno (\d+)\]", str(error))  # of the first address, if several were tried
    return os.strerror(int(number[1])) if number else error.strerror or str(error) or type(error).__name__


class RawConnection:
    """`async with RawConnection(url) as connection: response = await connection.exchange(…)`. Raises OSError.

    `trust`: the trust store of an https server.
    """

    def __init__(self, url: ServerUrl, trust: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._trust = trust
        self._http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port, ssl=self._tls())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _tls(self) -> ssl.SSLContext | None:
        return (self._trust or trust_store()) if self._url.tls else None

    async def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> RawResponse:
        """Raises InvalidResponse and OSError."""
        if body or method not in ("GET", "HEAD", "OPTIONS"):
            headers = {**headers, "Content-Length": str(len(body))}
        request = h11.Request(method=method, target=self._url.prefix + path, headers=list(headers.items()))
        for event in (request, h11.Data(body), h11.EndOfMessage()):
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()
        return await self._receive()

    async def write(self, data: bytes, *, half_close: bool = False) -> None:
        """Send bytes as they are. Raises OSError."""
        self._writer.write(data)
        await self._writer.drain()
        if half_close:
            self._writer.write_eof()

    async def read_response(self, method: str) -> RawResponse:
        """Read the response to a request that was sent with `write`. Raises InvalidResponse and OSError."""
        try:
            self._http.send(h11.Request(method=method, target="/", headers=[("Host", "")]))
            self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            raise InvalidResponse("the connection was closed before the next response") from None
        return await self._receive()

    async def closes(self) -> bool:
        """Wait until the server sends more or closes the connection. Return True if it closed it."""
        if self._http.trailing_data[0]:
            return False
        with contextlib.suppress(ConnectionError):
            return not await self._reader.read(1)
        return True

    async def _receive(self) -> RawResponse:
        try:
            response = await self._read_response()
        except h11.RemoteProtocolError as error:
            raise InvalidResponse(f"not a complete HTTP response: {error}") from error
        if self._http.our_state is self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        elif (response.header("connection") or "").lower() == "keep-alive":
            self._continue_http_1_0()
        return response

    def _continue_http_1_0(self) -> None:
        """Start anew with what was received, because h11 takes every response of HTTP/1.0 for the last one."""
        received, _ = self._http.trailing_data
        self._http = h11.Connection(h11.CLIENT)
        if received:
            self._http.receive_data(received)

    async def _read_response(self) -> RawResponse:
        head: h11.Response | None = None
        chunks = [bytearray()]
        size = 0
        while True:
            match await self._event():
                case h11.Response() as head:
                    pass
                case h11.Data(data=data, chunk_end=chunk_end):
                    chunks[-1] += data
                    size += len(data)
                    if size > MAX_BODY_BYTES:
                        raise InvalidResponse(f"the response is longer than {MAX_BODY_BYTES} bytes")
                    if chunk_end:
                        chunks.append(bytearray())
                case h11.EndOfMessage() | h11.ConnectionClosed():
                    break
        if head is None:
            raise InvalidResponse("the connection was closed before the response began")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        chunked = any(name == "transfer-encoding" and "chunked" in value for name, value in headers)
        body = b"".join(chunks)
        return RawResponse(
            head.status_code, headers, body, tuple(map(bytes, filter(None, chunks))) if chunked else None
        )

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(READ_BYTES))
        return event

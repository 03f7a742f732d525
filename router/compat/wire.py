"""HTTP as it came: status, headers, body and the very chunks, which a client for daily use hides."""

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

import httptools

LARGEST = 64 * 1024 * 1024
"""Bytes of an answer; more are no answer to what is asked here."""
BLOCK = 64 * 1024


class BadAnswer(Exception):
    """What came is no HTTP answer, or only part of one. `str()` says which."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in the order in which they came."""
    body: bytes
    chunks: tuple[bytes, ...] | None
    """The body as it was cut into chunks; None where it was not."""

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for given, value in self.headers if given == name), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    """What comes before every path."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def place(url: str) -> Place:
    """Where a URL points; http and Ollama's port where it does not say. Raises ValueError where it is none."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"\s", host):
        raise ValueError(f"{url!r} is no URL of a server; say http://HOST:PORT")
    usual = {"http": 80, "https": 443}[parts.scheme] if "://" in url else 11434
    return Place(host, port or usual, parts.scheme == "https", parts.path.rstrip("/"))


def reason(error: OSError) -> str:
    """Why there was no connection, or none any more, without the addresses that asyncio puts into it."""
    number = re.search(r"\[Errno (\d+)\]", str(error))  # of the first address, where several were tried
    return os.strerror(int(number[1])) if number else error.strerror or str(error) or type(error).__name__


class Connection:
    """`async with Connection(place) as connection: reply = await connection.exchange(…)`

    Raises OSError where nobody listens.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context() if self._place.tls else None
        self._reader, self._writer = await asyncio.open_connection(self._place.host, self._place.port, ssl=tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Send a request and read the whole answer. Raises BadAnswer, OSError."""
        self._writer.write(_request(method, self._place.prefix + path, headers, body))
        await self._writer.drain()
        answer = _Answer(has_body=method != "HEAD")
        while not answer.whole:
            data = await self._reader.read(BLOCK)
            answer.feed(data)
        return answer.reply()


def _request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    if body or method not in ("GET", "HEAD", "OPTIONS"):
        headers = {**headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Answer:
    """Collects what the parser finds; its methods are called by the parser."""

    def __init__(self, *, has_body: bool) -> None:
        self.whole = False
        self._has_body = has_body
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self._chunks: list[bytes] = []
        self._chunked = False
        self._begun = 0
        self._seen_head = False

    def feed(self, data: bytes) -> None:
        """More bytes; none for the end of the connection."""
        if not data:
            if not self._seen_head or self._framed():
                raise BadAnswer("the connection ended before the answer did")
            self.whole = True
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.whole:
                raise BadAnswer(f"this is not HTTP: {error}") from error
        if len(self._body) > LARGEST:
            raise BadAnswer(f"the answer is longer than {LARGEST} bytes")

    def reply(self) -> Reply:
        status = self._parser.get_status_code()
        chunks = tuple(self._chunks) if self._chunked else None
        return Reply(status, tuple(self._headers), bytes(self._body), chunks)

    def _framed(self) -> bool:
        """Whether the headers say where the body ends."""
        return any(name in ("content-length", "transfer-encoding") for name, _ in self._headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._seen_head = True
        self._chunked = any(name == "transfer-encoding" and "chunked" in value for name, value in self._headers)
        if not self._has_body:
            self.whole = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_chunk_header(self) -> None:
        self._begun = len(self._body)

    def on_chunk_complete(self) -> None:
        if len(self._body) > self._begun:
            self._chunks.append(bytes(self._body[self._begun :]))

    def on_message_complete(self) -> None:
        self.whole = True

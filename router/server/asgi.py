"""ASGI types, request bodies, responses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from vllama_pool.router.errors import ClientError, TooLarge
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.error_bodies import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = "application/json; charset=utf-8"

DISCARD_SECONDS = 10.0
DISCARD_BYTES = 256 * 1024 * 1024
"""Limits on the rest of a refused request's body, which is read and discarded."""

INTERNAL_ERROR = "internal error of the router; see its log"

BODY = "vllama.body"
"""Key of an ASGI scope: the `WholeBody`. Absent if the body needs decoding, or the server does not say."""
HEADERS = "vllama.headers"
"""Key of an ASGI scope: the request's headers by name."""

_SCHEMA = re.compile(rb'"format"\s*:\s*\{')
"""Within tools, "format" is a word."""

T = TypeVar("T")

SCHEMA_WEIGHT = 32
"""Time to translate a byte of a JSON schema, in that to decode a byte."""


class ClientDisconnected(Exception):
    """The client disconnected before its response was complete."""


class WholeBody(Protocol):
    """A request whose body had arrived before it was served."""

    def take_body(self) -> bytes | None:
        """Return the body once; None if it was taken, or is incomplete."""


def take_body(scope: Scope) -> bytes | None:
    """Return a body that has arrived, without a coroutine; None if `read_body` has to wait for it."""
    source: WholeBody | None = scope.get(BODY)
    return None if source is None else source.take_body()


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read the whole body. Raises TooLarge above `limit` bytes, and ClientDisconnected."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(too_large(limit))
        return body
    parts = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise TooLarge(too_large(limit))
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()


def decode_body(decode: Callable[[bytes], T], body: bytes) -> Awaitable[T]:
    """Decode in a thread if it takes long: a large body, or one that may hold a JSON schema to translate."""
    weight = SCHEMA_WEIGHT if b'"format"' in body and _SCHEMA.search(body) else 1
    return offload(len(body) * weight, decode, body)


def too_large(limit: int) -> str:
    """Return the text of a 413."""
    return f"request body is larger than {limit / 2**20:g} MiB; send less, or raise VLLAMA_BODY_LIMIT"


def request_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by lower-case name. The first of repeated headers wins."""
    headers: Mapping[bytes, bytes] | None = scope.get(HEADERS)
    if headers is None:
        headers = scope[HEADERS] = dict(reversed(scope["headers"]))
    return headers


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a lower-case header name."""
    value = request_headers(scope).get(name)
    return None if value is None else value.decode("latin-1")


async def send_response(
    send: Send, status: int, body: bytes, *, content_type: str = JSON, headers: Headers | None = None
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                *([(b"content-type", content_type.encode("latin-1"))] if content_type else []),
                (b"content-length", str(len(body)).encode()),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_empty(_: Any, receive: Any, send: Any) -> None:
    """ASGI app that responds 200 without body or Content-Type (R011, R018)."""
    await send_response(send, 200, b"", content_type="")


async def send_and_drain(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: str = JSON,
    headers: Headers | None = None,
) -> None:
    """Respond to a request whose body was not read, then discard the body.

    A client that still sends would lose the response if the connection closed. One that expects "100 Continue" sends no
    body.
    """
    expects_continue = header(scope, b"expect") is not None
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                *([(b"content-type", content_type.encode("latin-1"))] if content_type else []),
                *([(b"content-length", str(len(body)).encode())] if status != 204 else []),
                *([(b"connection", b"close")] if expects_continue else []),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not expects_continue and _has_body(scope):
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                await _discard(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in (None, "0") or header(scope, b"transfer-encoding") is not None


async def _discard(receive: Receive) -> None:
    remaining = DISCARD_BYTES
    while remaining > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        remaining -= len(message.get("body", b""))


async def send_error(send: Send, error: ClientError, path: str = "", request_id: str = "") -> None:
    """Send an error in the format of the path's API; Ollama's without a path (R046).

    `request_id`: part of Anthropic's format.
    """
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    await send_response(send, error.status, client_error_body(path, error, request_id), headers=headers)


def client_error_body(path: str, error: ClientError, request_id: str) -> bytes:
    return error_body(path, error.status, error.text, request_id, param=error.param, code=error.code)

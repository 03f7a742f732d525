"""The few ASGI steps that the raw handlers share: read a body, send a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar

from vllama_pool.router.errors import ClientError, TooLarge
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.disconnect import ClientDisconnected

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = "application/json; charset=utf-8"

LINGER = 10.0
"""Seconds for which the rest of a body that was refused is taken and thrown away."""
LINGER_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


async def read_body(receive: Receive, limit: int) -> bytes:
    """The request's whole body. Raises TooLarge above `limit` bytes, ClientDisconnected if the client leaves."""
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


async def decode_body(decode: Callable[[bytes], T], body: bytes) -> T:
    """What `decode` makes of a body, or raises."""
    return await offload(len(body), decode, body)


def too_large(limit: int) -> str:
    """The text of a 413, given the limit in bytes."""
    return f"request body is larger than {limit / 2**20:g} MiB; send less, or raise VLLAMA_BODY_LIMIT"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that lower-case name, as text."""
    for key, value in scope["headers"]:
        if key == name:
            text: bytes = value
            return text.decode("latin-1")
    return None


async def send_response(
    send: Send, status: int, body: bytes, *, content_type: str = JSON, headers: Headers | None = None
) -> None:
    """Send one complete answer."""
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
    """An ASGI app: 200 and nothing else, not even a Content-Type (R011, R018)."""
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
    """Send one complete answer to a request whose body was not read.

    The client gets all of the answer at once. Then the rest of its body is thrown away: to close the connection on a
    client that still sends would take the answer from it. One that waits for "100 Continue" sends nothing more.
    """
    waits = header(scope, b"expect") is not None
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                *([(b"content-type", content_type.encode("latin-1"))] if content_type else []),
                *([(b"content-length", str(len(body)).encode())] if status != 204 else []),
                *([(b"connection", b"close")] if waits else []),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not waits and _has_body(scope):
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await _throw_away(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in (None, "0") or header(scope, b"transfer-encoding") is not None


async def _throw_away(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))


async def send_error(send: Send, error: ClientError, path: str = "") -> None:
    """Send an error in the shape of the path's clients: Ollama's where it is left out (R046)."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    await send_response(send, error.status, error_body(path, error.status, error.text), headers=headers)

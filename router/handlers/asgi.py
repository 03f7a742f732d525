"""The few ASGI steps that the raw handlers share: read a body, send a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import msgspec

from router.errors import ClientError, TooLarge
from router.presence import ClientGone

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = "application/json; charset=utf-8"

AT_ONCE = 256 * 1024
"""Bytes of a body that are decoded within the event loop: some twenty milliseconds at worst."""

T = TypeVar("T")


class ErrorBody(msgspec.Struct):
    """Ollama's error shape on `/api/*`."""

    error: str


async def read_body(receive: Receive, limit: int) -> bytes:
    """The request's whole body. Raises TooLarge above `limit` bytes, ClientGone if the client leaves."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(_too_large(limit))
        return body
    parts = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise TooLarge(_too_large(limit))
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()


async def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """What `decode` makes of a body, or raises. Large ones are decoded in a thread, for the streams of others must
    go on meanwhile."""
    return decode(body) if len(body) <= AT_ONCE else await asyncio.to_thread(decode, body)


def _too_large(limit: int) -> str:
    return f"request body is larger than {limit / 2**20:g} MiB; send less, or raise VLLAMA_BODY_LIMIT"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that lower-case name, as text."""
    for key, value in scope["headers"]:
        if key == name:
            text: bytes = value
            return text.decode("latin-1")
    return None


async def send_whole(
    send: Send, status: int, body: bytes, *, content_type: str = JSON, headers: Headers | None = None
) -> None:
    """Send one complete answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type.encode("latin-1")),
                (b"content-length", str(len(body)).encode()),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_plain(send: Send, status: int, text: bytes) -> None:
    """Send a line of text, or an empty answer."""
    await send_whole(send, status, text, content_type="text/plain")


async def send_error(send: Send, error: ClientError) -> None:
    """Send an error in Ollama's shape (R046)."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    body = msgspec.json.encode(ErrorBody(error.text))
    await send_whole(send, error.status, body, headers=headers)

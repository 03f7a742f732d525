"""Request bodies in zstd, which Codex sends."""

from __future__ import annotations

import asyncio

from vllama_pool.router.errors import TooLarge
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.server.asgi import Message, Receive, too_large
from vllama_pool.router.server.zstd_stream import ZstdStream

ZSTD_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)
"""Routes that accept zstd (R178)."""
_PIECE = 1024 * 1024
"""Bytes that a thread decodes at once."""


class DecodedBody:
    """ASGI's `receive` for a zstd body, as if it were sent decoded.

    It holds one piece of the decoded body at a time, so a bomb costs no more memory than a body of the limit's size.
    Raises BadRequest, and TooLarge above `limit` bytes before or after decoding.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._stream = ZstdStream()
        self._sent = self._decoded = 0
        """Bytes so far."""
        self._arrived = self._passed = False
        """True after the end of the body."""

    async def __call__(self) -> Message:
        while not self._passed:
            if piece := await self._read():
                return {"type": "http.request", "body": piece, "more_body": True}
            if self._arrived:
                self._passed = True
                self._stream.end()
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._feed(message.get("body", b""), more=message.get("more_body", False))
        return await self._receive()

    def _feed(self, data: bytes, *, more: bool) -> None:
        self._arrived = not more
        self._sent += len(data)
        self._check(self._sent)
        self._stream.feed(data)

    async def _read(self) -> bytes:
        """Decode the next piece, in a thread once the body is large."""
        if self._decoded < INLINE_BYTES:
            piece = self._stream.read(INLINE_BYTES)
        else:
            piece = await asyncio.to_thread(self._stream.read, _PIECE)
        self._decoded += len(piece)
        self._check(self._decoded)
        return piece

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(too_large(self._limit))

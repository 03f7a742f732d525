"""The server under check."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vllama_pool.router.compat.expect import Skipped
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.wire import InvalidResponse, RawConnection, RawResponse, ServerUrl
from vllama_pool.workers.vllm.trust_store import trust_store

SHORT = {"num_predict": 8, "temperature": 0, "seed": 1}
"""Options for a short answer."""
ABSENT_MODEL = "vllama-compat-absent"
IDLE_SECONDS = 6.0
"""Longer than the five seconds after which many servers close an idle connection."""
BYTES_TIMEOUT = 10.0
"""Seconds for the responses to requests that a server may read as incomplete."""


class CheckedServer:
    """Opens a connection per request. Raises OSError, TimeoutError and InvalidResponse."""

    def __init__(
        self,
        url: ServerUrl,
        models: ModelChoice,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.url = url
        self.models = models
        self.key = key
        self.idle_seconds = idle_seconds
        self._timeout = timeout
        self._trust = trust_store() if url.tls else None
        self.last_request = ""
        """Such as "GET /api/tags"."""
        self._cache: dict[str, RawResponse] = {}

    def headers(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """`extra` replaces default headers."""
        own = {"Host": self.url.authority, "User-Agent": "vllama-compat", "Accept": "*/*"}
        if self.key:
            own["Authorization"] = f"Bearer {self.key}"
        replaced = {name.lower() for name in extra or {}}
        return {**{name: value for name, value in own.items() if name.lower() not in replaced}, **(extra or {})}

    def connection(self) -> RawConnection:
        return RawConnection(self.url, self._trust)

    async def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """Bodies other than bytes are sent as JSON."""
        self.last_request = f"{method} {path}"
        async with asyncio.timeout(self._timeout), self.connection() as connection:
            return await connection.exchange(method, path, self.headers(headers), encoded(body))

    async def send_bytes(
        self, data: bytes, methods: Sequence[str] = ("GET",), *, half_close: bool = False, until_closed: bool = False
    ) -> list[RawResponse]:
        """Send bytes as they are, and return a response per method. Raises Skipped where TLS cannot half-close.

        `until_closed`: the server has to close the connection after them.
        """
        self.last_request = data.partition(b"\n")[0].decode("latin-1").strip()
        if half_close and self.url.tls:
            raise Skipped("a TLS connection cannot be half-closed")
        try:
            async with asyncio.timeout(min(self._timeout, BYTES_TIMEOUT)), self.connection() as connection:
                await connection.write(data, half_close=half_close)
                responses = [await connection.read_response(method) for method in methods]
                if until_closed and not await connection.closes():
                    raise InvalidResponse("bytes after the response")
                return responses
        except TimeoutError:
            raise InvalidResponse("timed out waiting for a response or the end of the connection") from None

    async def get(self, path: str, **headers: str) -> RawResponse:
        return await self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, body: Any = None) -> RawResponse:
        return await self.send("POST", path, body)

    async def post_cached(self, path: str, body: Any) -> RawResponse:
        """Send equal requests only once, so that checks share responses."""
        key = f"{path} {encoded(body).decode()}"
        self.last_request = f"POST {path}"
        if key not in self._cache:
            self._cache[key] = await self.post(path, body)
        return self._cache[key]

    def model(self, use: str) -> str:
        """Raises Skipped if there is no model for this purpose."""
        name: str | None = getattr(self.models, use)
        if name is None:
            raise Skipped(_MISSING[use])
        return name

    async def generate(self, *, use: str = "chat", **fields: Any) -> RawResponse:
        """Short, and streamed unless `fields` override it."""
        body = {"model": self.model(use), "prompt": "Say hello to me.", "options": SHORT}
        return await self.post_cached("/api/generate", {**body, **fields})

    async def chat(self, *, use: str = "chat", **fields: Any) -> RawResponse:
        """Short, and streamed unless `fields` override it."""
        messages = [{"role": "user", "content": "Say hello to me."}]
        return await self.post_cached(
            "/api/chat", {"model": self.model(use), "messages": messages, "options": SHORT, **fields}
        )


def encoded(body: Any) -> bytes:
    if body is None:
        return b""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


_MISSING = {
    "chat": "no model that chats; name one with --model",
    "embed": "no embedding model; name one with --embed-model",
    "thinking": "no model that thinks; name one with --thinking-model",
    "tools": "no model with tools; name one with --tools-model",
    "vision": "no model with vision; name one with --vision-model",
    "audio": "no model that hears; name one with --audio-model",
    "unthinking": "every model can think",
    "toolless": "every model has tools",
}

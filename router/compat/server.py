"""The server under check: sends requests, knows the models to use, and caches responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from vllama_pool.router.compat.expect import Skipped
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.wire import RawConnection, RawResponse, ServerUrl

SHORT = {"num_predict": 8, "temperature": 0, "seed": 1}
"""Options for a short answer."""
ABSENT_MODEL = "vllama-compat-absent"
"""Name of a model that no server has."""


class CheckedServer:
    """Sends each request on a connection of its own. Raises OSError, TimeoutError and InvalidResponse."""

    def __init__(self, url: ServerUrl, models: ModelChoice, *, key: str | None = None, timeout: float = 60.0) -> None:
        self.url = url
        self.models = models
        self.key = key
        self._timeout = timeout
        self.last_request = ""
        """The last request, such as "GET /api/tags"."""
        self._cache: dict[str, RawResponse] = {}

    def headers(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Headers of every request; `extra` may replace them."""
        own = {"Host": self.url.authority, "User-Agent": "vllama-compat", "Accept": "*/*"}
        if self.key:
            own["Authorization"] = f"Bearer {self.key}"
        replaced = {name.lower() for name in extra or {}}
        return {**{name: value for name, value in own.items() if name.lower() not in replaced}, **(extra or {})}

    async def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """Send one request. A body that is not bytes is sent as JSON."""
        self.last_request = f"{method} {path}"
        async with asyncio.timeout(self._timeout), RawConnection(self.url) as connection:
            return await connection.exchange(method, path, self.headers(headers), encoded(body))

    async def get(self, path: str, **headers: str) -> RawResponse:
        return await self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, body: Any = None) -> RawResponse:
        return await self.send("POST", path, body)

    async def post_cached(self, path: str, body: Any) -> RawResponse:
        """As `post`, but equal requests are sent only once: several checks share one response."""
        key = f"{path} {encoded(body).decode()}"
        self.last_request = f"POST {path}"
        if key not in self._cache:
            self._cache[key] = await self.post(path, body)
        return self._cache[key]

    def model(self, use: str) -> str:
        """The name of the model for this purpose. Raises Skipped if there is none."""
        name: str | None = getattr(self.models, use)
        if name is None:
            raise Skipped(_MISSING[use])
        return name

    async def generate(self, *, use: str = "chat", **fields: Any) -> RawResponse:
        """A short answer of generate, streamed unless `fields` say otherwise."""
        body = {"model": self.model(use), "prompt": "Say hello to me.", "options": SHORT}
        return await self.post_cached("/api/generate", {**body, **fields})

    async def chat(self, *, use: str = "chat", **fields: Any) -> RawResponse:
        """A short answer of chat, streamed unless `fields` say otherwise."""
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
    "unthinking": "every model can think",
    "toolless": "every model has tools",
}

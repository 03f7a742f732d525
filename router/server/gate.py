"""The outermost layer: who may come in, under what request id, and with which headers answers leave.

It stands around the whole app, so that raw routes and unknown paths pass it like every other. What it finds out
goes on in the scope: `vllama.request_id` and `vllama.identity` (the API key's name, empty if anonymous).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vllama_pool.router.server.access import Access, Denied, asked
from vllama_pool.router.server.asgi import Receive, Scope, Send, header, send_and_drain

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

REQUEST_ID = b"x-request-id"
_CLIENTS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Gate:
    """An ASGI app around another. Lifespan events pass through."""

    def __init__(self, app: App, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, REQUEST_ID)
        request_id = request_id_of(given)
        decision = self._access.decide(asked(scope))
        added = [*([(REQUEST_ID, request_id.encode())] if given is not None else []), *decision.headers]
        if isinstance(decision, Denied):
            await send_and_drain(scope, receive, send, decision.status, decision.body, content_type="", headers=added)
            return
        scope["vllama.request_id"] = request_id
        scope["vllama.identity"] = decision.identity.name

        def send_with_headers(message: Message) -> Awaitable[None]:
            # No coroutine of its own: this is called for every token.
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            return send(message)

        await self.app(scope, receive, send_with_headers)


def request_id_of(given: str | None) -> str:
    """The client's own X-Request-Id if it is harmless in logs and headers, else a new one. It is told to clients that
    sent one: Ollama's answers have no such headers (R180)."""
    return given if given and _CLIENTS_ID.match(given) else secrets.token_hex(8)

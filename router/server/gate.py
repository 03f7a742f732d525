"""The outermost ASGI app: access control, request ids and their response headers.

Handlers find `vllama.request_id` and `vllama.key_name` (empty for anonymous requests) in the scope.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable

from vllama_pool.router.server.access import Access, AccessRequest, EarlyResponse
from vllama_pool.router.server.asgi import App, Message, Receive, Scope, Send, header, send_and_drain
from vllama_pool.router.server.paths import clean_path

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Gate:
    """Wraps an ASGI app. Lifespan events pass through."""

    def __init__(self, app: App, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["path"] = clean_path(scope["path"])  # first, so that all rules below see one spelling
        sent_id = header(scope, REQUEST_ID)
        request_id = choose_request_id(sent_id)
        decision = self._access.decide(AccessRequest.from_scope(scope))
        extra_headers = [*([(REQUEST_ID, request_id.encode())] if sent_id is not None else []), *decision.headers]
        if isinstance(decision, EarlyResponse):
            await send_and_drain(
                scope, receive, send, decision.status, decision.body, content_type="", headers=extra_headers
            )
            return
        scope["vllama.request_id"] = request_id
        scope["vllama.key_name"] = decision.key_name

        def send_with_headers(message: Message) -> Awaitable[None]:
            # Not a coroutine, because it runs for every token.
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *extra_headers]
            return send(message)

        await self.app(scope, receive, send_with_headers)


def choose_request_id(sent_id: str | None) -> str:
    """Return the client's X-Request-Id if it is safe in logs and headers, else a new id."""
    return sent_id if sent_id and _SAFE_ID.match(sent_id) else secrets.token_hex(8)

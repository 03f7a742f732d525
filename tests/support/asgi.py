"""ASGI without a server: a scripted client for raw apps, and an httpx client for whole ones."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import httpx

from vllama_pool.router.server.asgi import HEADERS
from vllama_pool.router.telemetry.request_record import RECORD, RequestRecord

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]


class FakeClient:
    """Sends scripted messages and records the response."""

    def __init__(self, *messages: Message) -> None:
        self.unread = list(messages)
        self.received: list[Message] = []

    async def receive(self) -> Message:
        return self.unread.pop(0)

    async def send(self, message: Message) -> None:
        self.received.append(message)

    @property
    def status(self) -> int:
        return int(self.received[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.received[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.received[1:])


def http_scope(method: str, path: str, **headers: str) -> Scope:
    """Make an HTTP scope of a client on this machine. Underscores in header names become hyphens."""
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": listed,
        "client": ("127.0.0.1", 4242),
        "server": ("127.0.0.1", 11434),
        RECORD: RequestRecord(id="id-1", client="anna"),
        HEADERS: dict(reversed(listed)),
    }


def body_part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: Message = {"type": "http.disconnect"}


def http_client(app: Any) -> httpx.AsyncClient:
    """Return a client that calls an app in this process. Exceptions become the app's 500."""

    async def recording(scope: Scope, receive: Any, send: Any) -> None:
        scope.setdefault(RECORD, RequestRecord(id="id-1"))
        await app(scope, receive, send)

    transport = httpx.ASGITransport(recording, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")

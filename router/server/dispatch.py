"""What is settled before a handler is chosen: unknown paths, wrong methods, fixed answers, bodies that nobody takes.

An ASGI app around the framework's, which is asked only for what it serves. All of it is one look-up per request and
nothing per token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from vllama_pool.router.errors import ClientError, TooLarge, UnknownEncoding
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.protocol.ollama.fixed_routes import FixedRequest, FixedRoute
from vllama_pool.router.server.asgi import (
    Receive,
    Scope,
    Send,
    decode_body,
    header,
    read_body,
    send_and_drain,
    send_error,
    send_response,
    too_large,
)
from vllama_pool.router.server.disconnect import ClientDisconnected
from vllama_pool.router.server.error_handlers import NOT_ALLOWED, NOT_FOUND, TEXT
from vllama_pool.router.server.paths import NotAllowed, Paths, Redirect, Rejection

App = Callable[[Any, Any, Any], Awaitable[None]]
JSON_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Those whose bodies are read."""


class Dispatcher:
    """The app around `app`. Lifespan events pass through."""

    def __init__(
        self, app: App, served: Iterable[tuple[str, Iterable[str]]], fixed: Iterable[FixedRoute], body_limit: int
    ) -> None:
        """`served` are the paths of `app` with their methods. A fixed answer gives way to one of these."""
        self._app = app
        self._body_limit = body_limit
        served = [(path, tuple(methods)) for path, methods in served]
        taken = {path for path, _ in served}
        table = [answer for answer in fixed if answer.path not in taken]
        self.paths = Paths([*served, *((answer.path, answer.methods) for answer in table)])
        self._fixed = {answer.path: answer for answer in table if "{" not in answer.path}
        self._parents = {answer.path.rpartition("/")[0]: answer for answer in table if "{" in answer.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        rejection = self.paths.check(scope["method"], path, scope["query_string"].decode("latin-1"))
        if rejection is not None:
            await _send_rejection(rejection, scope, receive, send)
        elif fixed := self._fixed.get(path) or self._parents.get(path.rpartition("/")[0]):
            await self._answer(fixed, scope, receive, send)
        elif (refusal := self._refusal(scope)) is not None:
            await send_and_drain(scope, receive, send, refusal.status, error_body(path, refusal.status, refusal.text))
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ClientError | None:
        """Why the body need not be sent at all."""
        length = header(scope, b"content-length")
        if length is not None and int(length) > self._body_limit:
            return TooLarge(too_large(self._body_limit))
        encoding = (header(scope, b"content-encoding") or "").strip().lower()
        if encoding not in ("", "identity") and scope["method"] in JSON_METHODS:
            return UnknownEncoding(f"request bodies are not taken as {encoding[:40]}; send them uncompressed")
        return None

    async def _answer(self, fixed: FixedRoute, scope: Scope, receive: Receive, send: Send) -> None:
        question = FixedRequest(scope["method"], scope["path"])
        try:
            if fixed.body is None:
                reply = fixed.answer(question)
                await send_and_drain(scope, receive, send, reply.status, reply.body, content_type=reply.content_type)
                return
            if refusal := self._refusal(scope):
                raise refusal
            body = await read_body(receive, self._body_limit)
            reply = await decode_body(
                lambda read: fixed.answer(FixedRequest(question.method, question.path, read)), body
            )
            await send_response(send, reply.status, reply.body, content_type=reply.content_type)
        except ClientError as error:
            await send_error(send, error, question.path)
        except ClientDisconnected:
            return


async def _send_rejection(rejection: Rejection, scope: Scope, receive: Receive, send: Send) -> None:
    """R036, in the bytes of the framework that Ollama is built on."""
    if isinstance(rejection, Redirect):
        asked = scope["method"] == "GET"
        page = (
            f'<a href="{rejection.location}">{HTTPStatus(rejection.status).phrase}</a>.\n\n'.encode() if asked else b""
        )
        kind = "text/html; charset=utf-8" if asked or scope["method"] == "HEAD" else ""
        headers = [(b"location", rejection.location.encode())]
        await send_and_drain(scope, receive, send, rejection.status, page, content_type=kind, headers=headers)
    elif isinstance(rejection, NotAllowed):
        headers = [(b"allow", rejection.allow.encode())]
        await send_and_drain(scope, receive, send, 405, NOT_ALLOWED, content_type=TEXT, headers=headers)
    else:
        await send_and_drain(scope, receive, send, 404, NOT_FOUND, content_type=TEXT)

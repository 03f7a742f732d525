"""Answers requests that need no handler: unknown paths, wrong methods, fixed routes, refused bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Container, Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType

from vllama_pool.router.errors import ClientError, TooLarge, UnknownEncoding
from vllama_pool.router.protocol.ollama.fixed_routes import FixedRequest, FixedRoute
from vllama_pool.router.server.asgi import (
    BODY,
    App,
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    client_error_body,
    decode_body,
    read_body,
    request_headers,
    send_and_drain,
    send_error,
    send_response,
    too_large,
)
from vllama_pool.router.server.paths import NotAllowed, Paths, Redirect, Rejection
from vllama_pool.router.server.zstd_body import ZSTD_PATHS, DecodedBody
from vllama_pool.router.telemetry.request_record import CLIENT_CLOSED_REQUEST, RECORD, name_model, request_id

BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
TEXT = "text/plain"
ZSTD = "zstd"
NOT_FOUND = b"404 page not found"
NOT_ALLOWED = b"405 method not allowed"


class Dispatcher:
    """Wraps an ASGI app. Lifespan events pass through."""

    def __init__(
        self,
        app: App,
        served: Iterable[tuple[str, Iterable[str]]],
        fixed: Iterable[FixedRoute],
        body_limit: int,
        hot: Mapping[str, App] = MappingProxyType({}),
        zstd_paths: Container[str] = ZSTD_PATHS,
    ) -> None:
        """`served`: the paths of `app` with their methods. They win over `fixed` routes. `hot`: apps of paths served by
        POST, called without `app`. `zstd_paths`: those that accept bodies in zstd."""
        self._app = app
        self._hot = dict(hot)
        self._body_limit = body_limit
        self._zstd_paths = zstd_paths
        served = [*((path, tuple(methods)) for path, methods in served), *((path, ("POST",)) for path in hot)]
        served_paths = {path for path, _ in served}
        table = [route for route in fixed if route.path not in served_paths]
        self.paths = Paths([*served, *((route.path, route.methods) for route in table)])
        self._fixed = {route.path: route for route in table if "{" not in route.path}
        self._parents = {route.path.rpartition("/")[0]: route for route in table if "{" in route.path}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        hot = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
        serve = hot if hot is not None and self._is_plain(scope) else self._serve
        return serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        rejection = self.paths.check(scope["method"], path, scope["query_string"].decode("latin-1"))
        if rejection is not None:
            await _send_rejection(rejection, scope, receive, send)
        elif fixed := self._fixed.get(path) or self._parents.get(path.rpartition("/")[0]):
            await self._answer(fixed, scope, receive, send)
        elif (refusal := self._refusal(scope)) is not None:
            body = client_error_body(path, refusal, request_id(scope))
            await send_and_drain(scope, receive, send, refusal.status, body)
        else:
            if _encoding(scope) == ZSTD:
                receive = DecodedBody(receive, self._body_limit)
                scope.pop(BODY, None)
            app = self._hot.get(path, self._app) if scope["method"] == "POST" else self._app
            await app(scope, receive, send)

    def _is_plain(self, scope: Scope) -> bool:
        """True for a body that is neither encoded nor known to be too large."""
        headers = request_headers(scope)
        return b"content-encoding" not in headers and not self._is_too_large(headers)

    def _is_too_large(self, headers: Mapping[bytes, bytes]) -> bool:
        length = headers.get(b"content-length")
        return length is not None and int(length) > self._body_limit

    def _refusal(self, scope: Scope) -> ClientError | None:
        if self._is_too_large(request_headers(scope)):
            return TooLarge(too_large(self._body_limit))
        encoding = _encoding(scope)
        if not encoding or (encoding == ZSTD and scope["path"] in self._zstd_paths):
            return None
        return UnknownEncoding(f"request bodies in {encoding[:40]} are not supported; send them uncompressed")

    async def _answer(self, fixed: FixedRoute, scope: Scope, receive: Receive, send: Send) -> None:
        fixed_request = FixedRequest(scope["method"], scope["path"])
        try:
            if fixed.body is None:
                reply = fixed.answer(fixed_request)
                await send_and_drain(scope, receive, send, reply.status, reply.body, content_type=reply.content_type)
                return
            if refusal := self._refusal(scope):
                raise refusal
            body = await read_body(receive, self._body_limit)
            reply = await decode_body(
                lambda read: fixed.answer(FixedRequest(fixed_request.method, fixed_request.path, read)), body
            )
            if fixed.model is not None:
                name_model(scope, fixed.model(body))
            await send_response(send, reply.status, reply.body, content_type=reply.content_type)
        except ClientError as error:
            await send_error(send, error, fixed_request.path, request_id(scope))
        except ClientDisconnected:
            scope[RECORD].status = CLIENT_CLOSED_REQUEST


def _encoding(scope: Scope) -> str:
    """Return the body's encoding; "" if it has none."""
    if scope["method"] not in BODY_METHODS:
        return ""
    encoding = request_headers(scope).get(b"content-encoding", b"").decode("latin-1").strip().lower()
    return "" if encoding == "identity" else encoding


async def _send_rejection(rejection: Rejection, scope: Scope, receive: Receive, send: Send) -> None:
    """Send R036's response, byte for byte as gin, Ollama's framework."""
    if isinstance(rejection, Redirect):
        is_get = scope["method"] == "GET"
        page = (
            f'<a href="{rejection.location}">{HTTPStatus(rejection.status).phrase}</a>.\n\n'.encode() if is_get else b""
        )
        kind = "text/html; charset=utf-8" if is_get or scope["method"] == "HEAD" else ""
        headers = [(b"location", rejection.location.encode())]
        await send_and_drain(scope, receive, send, rejection.status, page, content_type=kind, headers=headers)
    elif isinstance(rejection, NotAllowed):
        headers = [(b"allow", rejection.allow.encode())]
        await send_and_drain(scope, receive, send, 405, NOT_ALLOWED, content_type=TEXT, headers=headers)
    else:
        await send_and_drain(scope, receive, send, 404, NOT_FOUND, content_type=TEXT)

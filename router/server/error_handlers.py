"""The one map from errors to answers, for the routes that Litestar serves."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ExceptionHandlersMap

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.asgi import JSON, too_large

log = logging.getLogger(__name__)

TEXT = "text/plain"
NOT_FOUND = b"404 page not found"
NOT_ALLOWED = b"405 method not allowed"


def _json(
    request: Request[Any, Any, Any], status: int, text: str, headers: dict[str, str] | None = None
) -> Response[bytes]:
    body = error_body(request.scope["path"], status, text)
    return Response(body, status_code=status, media_type=JSON, headers=headers)


def client_error(request: Request[Any, Any, Any], error: ClientError) -> Response[bytes]:
    retry_after = {"retry-after": str(error.retry_after)} if error.retry_after is not None else None
    return _json(request, error.status, error.text, retry_after)


def not_found(_: Request[Any, Any, Any], error: NotFoundException) -> Response[bytes]:
    """R036."""
    return Response(NOT_FOUND, status_code=404, media_type=TEXT)


def not_allowed(_: Request[Any, Any, Any], error: MethodNotAllowedException) -> Response[bytes]:
    """R036."""
    return Response(NOT_ALLOWED, status_code=405, media_type=TEXT)


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _json(request, error.status_code, error.detail)


def body_too_large(request: Request[Any, Any, Any], error: RequestEntityTooLarge) -> Response[bytes]:
    """A body without a Content-Length: it shows while it is read."""
    limit = request.app.request_max_body_size
    return _json(request, error.status_code, too_large(limit) if isinstance(limit, int) else error.detail)


def fault(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A bug of ours: the log has the traceback, the client one line."""
    log.error("a fault while serving %r", request.scope["path"], exc_info=error)
    return _json(request, 500, "internal error of the router; its log says more")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ClientError: client_error,
    NotFoundException: not_found,
    MethodNotAllowedException: not_allowed,
    RequestEntityTooLarge: body_too_large,
    HTTPException: http_error,
    Exception: fault,
}

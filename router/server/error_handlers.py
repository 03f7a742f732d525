"""Maps exceptions to responses for Litestar's routes."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ExceptionHandlersMap

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.server.asgi import INTERNAL_ERROR, JSON, ClientDisconnected, client_error_body, too_large
from vllama_pool.router.telemetry.request_record import CLIENT_CLOSED_REQUEST, LOGGED_TEXT_LENGTH, request_id

_log = logging.getLogger(__name__)


def _json(request: Request[Any, Any, Any], status: int, text: str) -> Response[bytes]:
    body = error_body(request.scope["path"], status, text, request_id(request.scope))
    return Response(body, status_code=status, media_type=JSON)


def client_error(request: Request[Any, Any, Any], error: ClientError) -> Response[bytes]:
    retry_after = {"retry-after": str(error.retry_after)} if error.retry_after is not None else None
    body = client_error_body(request.scope["path"], error, request_id(request.scope))
    return Response(body, status_code=error.status, media_type=JSON, headers=retry_after)


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _json(request, error.status_code, error.detail)


def body_too_large(request: Request[Any, Any, Any], error: RequestEntityTooLarge) -> Response[bytes]:
    """Answer a body that exceeds the limit without announcing it in Content-Length."""
    limit = request.app.request_max_body_size
    return _json(request, error.status_code, too_large(limit) if isinstance(limit, int) else error.detail)


def internal_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("unexpected error while serving %r", request.scope["path"][:LOGGED_TEXT_LENGTH], exc_info=error)
    return _json(request, 500, INTERNAL_ERROR)


def client_disconnected(request: Request[Any, Any, Any], error: ClientDisconnected) -> Response[bytes]:
    """Nobody receives this response. Its status goes to the request log."""
    return Response(b"", status_code=CLIENT_CLOSED_REQUEST, media_type=JSON)


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ClientError: client_error,
    ClientDisconnected: client_disconnected,
    RequestEntityTooLarge: body_too_large,
    HTTPException: http_error,
    Exception: internal_error,
}

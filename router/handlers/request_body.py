"""Bodies of Litestar's requests, and the rights of their keys."""

from __future__ import annotations

from typing import Any, cast

from litestar import Request

from vllama_pool.router.admission.grant import GRANT, Grant
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.server.asgi import Receive, read_body


async def read_request(request: Request[Any, Any, Any]) -> bytes:
    """Read the whole body. Raises TooLarge, and ClientDisconnected, which Litestar's own would answer with a 500."""
    return await read_body(cast(Receive, request.receive), cast(int, request.app.request_max_body_size))


def rights_of(request: Request[Any, Any, Any]) -> Rights | None:
    """Return None if the request may use all models."""
    grant = cast(Grant | None, request.scope.get(GRANT))
    return None if grant is None else grant.rights

"""Routes that explain decisions: GET /admin/decisions and /admin/explain."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.server.asgi import JSON
from vllama_pool.router.telemetry.decision_view import FoundDecision, ProcessDecisions, Reach, json_lines

JSON_LINES = "application/x-ndjson"
LONGEST_ID = 64


def explain_routes(
    collect: Callable[[], Awaitable[Iterable[ProcessDecisions]]], find: Callable[[str], Awaitable[FoundDecision]]
) -> list[HTTPRouteHandler]:
    """Both ask all router processes. `find` looks a request id up."""

    @get("/admin/decisions")
    async def decisions() -> Response[bytes]:
        return Response(json_lines(await collect()), media_type=JSON_LINES)

    @get("/admin/explain")
    async def explain(request_id: Annotated[str, QueryParameter(name="request")] = "") -> Response[bytes]:
        if not request_id:
            raise BadRequest("no request is named; add ?request=ID")
        if not _is_id(request_id):
            raise BadRequest("the request's id is not one line of up to 64 ASCII characters; correct it")
        found = await find(request_id)
        if found.decision is None:
            raise ClientError(not_kept(request_id, found.reach), status=404)
        return Response(msgspec.json.encode(found.decision), media_type=JSON)

    return [decisions, explain]


def not_kept(request_id: str, reach: Reach) -> str:
    """Describe a request id that no process knows."""
    if not reach.limit:
        return "the router keeps no decisions; set VLLAMA_DECISIONS to a number above 0"
    name = f"request '{request_id[:LONGEST_ID]}'"
    if not reach.kept:
        return f"{name} is unknown: the router has decided on no request yet; send one first"
    since = datetime.fromtimestamp(reach.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    minutes = max(0.0, time.time() - reach.since) / 60
    return (
        f"{name} is unknown: the router keeps its latest {reach.limit} decisions, which go back to {since} "
        f"({minutes:.0f} min); check the id, or raise VLLAMA_DECISIONS"
    )


def _is_id(text: str) -> bool:
    return len(text) <= LONGEST_ID and text.isascii() and text.isprintable()

"""Routes that explain decisions: GET /admin/decisions, GET and POST /admin/explain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter

from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.explainer import ModelExplainer, ModelQuestion, decode_question
from vllama_pool.router.handlers.request_body import read_request
from vllama_pool.router.routing.explain import UNKNOWN, near_names
from vllama_pool.router.server.asgi import JSON, decode_body
from vllama_pool.router.telemetry.decision_view import FoundDecision, ProcessDecisions, Reach, json_lines

JSON_LINES = "application/x-ndjson"
LONGEST_ID = 64


def explain_routes(
    collect: Callable[[], Awaitable[Iterable[ProcessDecisions]]],
    find: Callable[[str], Awaitable[FoundDecision]],
    models: ModelExplainer,
) -> list[HTTPRouteHandler]:
    """`collect` and `find` ask all router processes. `find` looks a request id up."""

    @get("/admin/decisions")
    async def decisions() -> Response[bytes]:
        return Response(await asyncio.to_thread(json_lines, await collect()), media_type=JSON_LINES)

    @get("/admin/explain")
    async def explain(
        request_id: Annotated[str, QueryParameter(name="request")] = "",
        model: FromQuery[str] = "",
        key: FromQuery[str] = "",
        user: FromQuery[str] = "",
        prompt_tokens: FromQuery[int] = 0,
    ) -> Response[bytes]:
        if model:
            question = ModelQuestion(model, key=key, user=user, prompt_tokens=prompt_tokens)
            return await explained(models, question)
        return Response(msgspec.json.encode(await found_decision(find, request_id)), media_type=JSON)

    @post("/admin/explain", status_code=200)
    async def explain_body(request: Request[None, None, State]) -> Response[bytes]:
        return await explained(models, await decode_body(decode_question, await read_request(request)))

    return [decisions, explain, explain_body]


async def explained(models: ModelExplainer, question: ModelQuestion) -> Response[bytes]:
    name, request = await decode_body(lambda _: models.read(question), bytes(question.body))
    explanation = models.explain_read(question, name, request)
    if explanation.outcome == UNKNOWN:
        near = await asyncio.to_thread(near_names, explanation.requested, models.known_names(question))
        explanation = msgspec.structs.replace(explanation, near=near)
    return Response(msgspec.json.encode(explanation), media_type=JSON)


async def found_decision(find: Callable[[str], Awaitable[FoundDecision]], request_id: str) -> object:
    """Raises ClientError for an unusable or unknown id."""
    if not request_id:
        raise BadRequest("nothing to explain is named; add ?model=NAME or ?request=ID")
    if not _is_id(request_id):
        raise BadRequest("the request's id is not one line of up to 64 ASCII characters; correct it")
    found = await find(request_id)
    if found.decision is None:
        raise ClientError(not_kept(request_id, found.reach), status=404)
    return found.decision


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

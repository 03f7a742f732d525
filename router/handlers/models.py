"""create, copy, delete and pull, on virtual models.

A change is complete before the response starts, so that errors have their own status even when streaming.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from litestar import Request, Response, delete, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.types import ASGIApp

from vllama_pool.router.handlers.request_body import read_request, rights_of
from vllama_pool.router.protocol.json_lines import NDJSON
from vllama_pool.router.protocol.ollama import copying, create, pull
from vllama_pool.router.protocol.ollama.pull import SUCCESS
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.server.asgi import JSON, decode_body, send_empty
from vllama_pool.router.telemetry.request_record import RequestRecord, name_model
from vllama_pool.router.virtual_models.change_plans import (
    BaseMissing,
    Inventory,
    NewModel,
    plan_copy,
    plan_create,
    plan_delete,
    plan_pull,
)
from vllama_pool.router.virtual_models.sync import ModelSync
from vllama_pool.workers.registry.virtual_model import VirtualModel

LitestarRequest = Request[None, None, State]


def model_routes(sync: ModelSync, inventory: Callable[[Rights | None], Inventory]) -> list[HTTPRouteHandler]:
    """`inventory` returns the models that a key with these rights may use."""

    @post("/api/create", status_code=200)
    async def create_model(request: LitestarRequest) -> Response[bytes] | Stream:
        body = await decode_body(create.decode_create, await read_request(request))
        record = name_model(request.scope, body.requested, body.source)
        rights = rights_of(request)
        plan: list[NewModel] = []

        def decide() -> VirtualModel:
            plan[:] = [plan_create(body, inventory(rights))]
            return plan[0].model

        try:
            await sync.change(decide)
        except BaseMissing:
            if not body.stream:
                raise
            return _failed(record)
        (new,) = plan
        return _progress(body.stream, create.progress(new.existing, new.new))

    @post("/api/copy", status_code=200)
    async def copy_model(request: LitestarRequest) -> ASGIApp:
        body = copying.decode_copy(await read_request(request))
        name_model(request.scope, body.destination, body.source)
        rights = rights_of(request)
        await sync.change(lambda: plan_copy(body, inventory(rights)))
        return send_empty

    @delete("/api/delete", status_code=200)
    async def delete_model(request: LitestarRequest) -> ASGIApp:
        body = copying.decode_delete(await read_request(request))
        name_model(request.scope, body.requested)
        rights = rights_of(request)
        await sync.change(lambda: plan_delete(body.requested, inventory(rights)))
        return send_empty

    @post("/api/pull", status_code=200)
    async def pull_model(request: LitestarRequest) -> Response[bytes] | Stream:
        body = pull.decode_pull(await read_request(request))
        record = name_model(request.scope, body.requested)
        try:
            return _progress(body.stream, plan_pull(body.requested, inventory(rights_of(request))))
        except BaseMissing:
            if not body.stream:
                raise
            return _failed(record)

    return [create_model, copy_model, delete_model, pull_model]


def _progress(stream: bool, lines: Sequence[bytes]) -> Response[bytes] | Stream:
    """Without streaming, send the success line only (R104)."""
    return _stream(lines) if stream else Response(SUCCESS, media_type=JSON)


def _failed(record: RequestRecord) -> Stream:
    """Report a missing model in a stream, whose status is 200."""
    record.outcome = "failed"
    return _stream(pull.failure())


def _stream(lines: Sequence[bytes]) -> Stream:
    """Send one object per chunk (R044)."""

    async def chunks() -> AsyncIterator[bytes]:
        for line in lines:
            yield line + b"\n"

    return Stream(chunks(), media_type=NDJSON)

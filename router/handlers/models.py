"""Create, copy, delete and pull: the routes that make and take away models, as far as a pool of vLLM servers has any.

A change is made before the first byte of its answer, so that what is wrong has its status, also where a stream was
asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from litestar import Request, Response, delete, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.types import ASGIApp

from vllama_pool.router.protocol.json_lines import NDJSON
from vllama_pool.router.protocol.ollama import copying, create, pull
from vllama_pool.router.protocol.ollama.pull import SUCCESS
from vllama_pool.router.server.asgi import JSON, decode_body, send_empty
from vllama_pool.router.virtual_models.plans import (
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

Asked = Request[None, None, State]


def model_routes(keeper: ModelSync, known: Callable[[], Inventory]) -> list[HTTPRouteHandler]:
    """The handlers. `known` says what there is at the moment."""

    @post("/api/create", status_code=200)
    async def create_model(request: Asked) -> Response[bytes] | Stream:
        wanted = await decode_body(create.decode_create, await request.body())
        plan: list[NewModel] = []

        def decide() -> VirtualModel:
            plan[:] = [plan_create(wanted, known())]
            return plan[0].model

        try:
            await keeper.change(decide)
        except BaseMissing:
            if not wanted.stream:
                raise
            return _stream(pull.failure())
        (made,) = plan
        return _answer(wanted.stream, create.progress(made.existing, made.new))

    @post("/api/copy", status_code=200)
    async def copy_model(request: Asked) -> ASGIApp:
        wanted = copying.decode_copy(await request.body())
        await keeper.change(lambda: plan_copy(wanted, known()))
        return send_empty

    @delete("/api/delete", status_code=200)
    async def delete_model(request: Asked) -> ASGIApp:
        wanted = copying.decode_delete(await request.body())
        await keeper.change(lambda: plan_delete(wanted.requested, known()))
        return send_empty

    @post("/api/pull", status_code=200)
    async def pull_model(request: Asked) -> Response[bytes] | Stream:
        wanted = pull.decode_pull(await request.body())
        try:
            return _answer(wanted.stream, plan_pull(wanted.requested, known()))
        except BaseMissing:
            if not wanted.stream:
                raise
            return _stream(pull.failure())

    return [create_model, copy_model, delete_model, pull_model]


def _answer(stream: bool, lines: Sequence[bytes]) -> Response[bytes] | Stream:
    """R104: without a stream, success alone."""
    return _stream(lines) if stream else Response(SUCCESS, media_type=JSON)


def _stream(lines: Sequence[bytes]) -> Stream:
    """One object for each chunk (R044)."""

    async def chunks() -> AsyncIterator[bytes]:
        for line in lines:
            yield line + b"\n"

    return Stream(chunks(), media_type=NDJSON)

"""The route of `vllama drain` and `vllama undrain`: POST /admin/drain."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import BadRequest, ClientError, Forbidden
from vllama_pool.router.handlers.request_body import read_request
from vllama_pool.router.routing.drain_request import DrainAnswer, DrainRequest, find_worker, unknown_worker
from vllama_pool.router.server.asgi import JSON, decode_body
from vllama_pool.workers.registry.want import WantNotStored

UNSIGNED = "a drain through a shared Redis is signed; set VLLAMA_FLEET_SECRET, the same everywhere"


class Drains(Protocol):
    """Implemented by `router/discovery/drains.py`."""

    @property
    def drained(self) -> Collection[str]: ...
    @property
    def can_sign(self) -> bool: ...
    async def ask(self, worker_id: str, *, drain: bool) -> bool: ...


def drain_routes(pool: Pool, drains: Drains) -> list[HTTPRouteHandler]:
    @post("/admin/drain", status_code=200)
    async def drain(request: Request[None, None, State]) -> Response[bytes]:
        asked = await decode_body(_decode, await read_request(request))
        known = {worker.id for worker in pool} | set(drains.drained)
        worker_id = find_worker(asked.worker, known)
        if worker_id is None:
            return Response(msgspec.json.encode(unknown_worker(asked.worker, known)), media_type=JSON, status_code=404)
        if not drains.can_sign:
            raise Forbidden(UNSIGNED)
        try:
            changed = await drains.ask(worker_id, drain=asked.drain)
        except WantNotStored as error:
            raise ClientError(f"nothing was changed: {error}", status=503) from error
        return Response(msgspec.json.encode(DrainAnswer(worker_id, asked.drain, changed)), media_type=JSON)

    return [drain]


def _decode(body: bytes) -> DrainRequest:
    try:
        return msgspec.json.decode(body, type=DrainRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f'expected {{"worker": ID, "drain": true}}: {error}') from error

"""/api/tags, /api/ps, /api/show and /api/version, from the pool's state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from litestar import Request, Response, get, post, route
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.request_body import read_request, rights_of
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama import catalogue, show
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker, ModelUses
from vllama_pool.router.protocol.ollama.not_found import NO_CLOUD_DETAILS, show_text, unknown_model
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.routing.listed_model import ListedModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.asgi import JSON, decode_body
from vllama_pool.router.telemetry.request_record import name_model
from vllama_pool.workers.registry.virtual_model import made_digest

LitestarRequest = Request[None, None, State]


def catalogue_routes(
    pool: Pool,
    routes: Callable[[], ModelRoutes],
    expiry: ExpiryTracker,
    collect_uses: Callable[[], Awaitable[Iterable[ModelUses]]],
    clock: Clock,
    version: str,
) -> list[HTTPRouteHandler]:
    """`collect_uses` asks all router processes. `version`: Ollama's version, shown to clients."""

    def models(request: LitestarRequest) -> list[ModelView]:
        return [model_view(listed) for listed in routes().list_models(pool, rights_of(request)) if listed.infos]

    @route("/api/tags", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def tags(request: LitestarRequest) -> Response[bytes]:
        return _json(catalogue.tags(models(request)))

    @get("/api/ps")
    async def ps(request: LitestarRequest) -> Response[bytes]:
        expiry.learn(await collect_uses())
        now = clock.monotonic_ns()
        offset = clock.time_ns() - now
        running = [
            model_view(listed)
            for listed in routes().list_models(pool, rights_of(request))
            if listed.replicas and (listed.virtual is None or expiry.lives(listed.name, now))
        ]
        return _json(catalogue.ps(running, lambda name: expiry.expires(name, now, offset)))

    @route("/api/version", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def version_page() -> Response[bytes]:
        return _json(catalogue.version(version))

    @post("/api/show", status_code=200)
    async def show_model(request: LitestarRequest) -> Response[bytes]:
        show_request = await decode_body(show.decode_show, await read_request(request))
        name_model(request.scope, show_request.requested)
        listed = routes().find(show_request.requested, pool, rights_of(request))
        if listed is None or not listed.infos:
            raise unknown_model(show_request.requested, show_text(show_request.requested), cloud=NO_CLOUD_DETAILS)
        return _json(show.show(model_view(listed), show_request, request.headers.get("user-agent", "")))

    return [tags, ps, version_page, show_model]


def model_view(listed: ListedModel) -> ModelView:
    """A model is loaded while any of its workers serves. Workers that are down count only if all are."""
    reachable = [target for target in listed.replicas if not target.worker.down] or listed.replicas
    view = ModelView(
        name=listed.name,
        replicas=tuple(target.model for target in reachable) or listed.infos,
        defaults=listed.defaults,
        loaded=any(target.worker.is_open and not target.worker.down for target in reachable),
        engines=tuple(target.worker.record.engine_version for target in reachable),
    )
    virtual = listed.virtual
    if virtual is None:
        return view
    return replace(
        view,
        base=virtual.base,
        made_digest=made_digest(virtual, view.digest) or view.digest,
        made_at=virtual.changed,
        license="\n".join(virtual.licenses),
    )


def _json(body: bytes) -> Response[bytes]:
    return Response(body, media_type=JSON)

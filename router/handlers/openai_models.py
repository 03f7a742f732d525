"""Lists of models for clients of OpenAI and Anthropic, and Ollama's recommendations, from the pool's state."""

from __future__ import annotations

from collections.abc import Callable

from litestar import HttpMethod, Response, get, route
from litestar.handlers import HTTPRouteHandler

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.catalogue import LitestarRequest, model_view
from vllama_pool.router.handlers.request_body import rights_of
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama.not_found import NO_CLOUD_DETAILS, show_text, unknown_model
from vllama_pool.router.protocol.openai import models as listing
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.asgi import JSON
from vllama_pool.router.telemetry.request_record import name_model

ANTHROPIC_VERSION = "anthropic-version"
"""A header that all clients of Anthropic's API send."""
READ = (HttpMethod.GET, HttpMethod.HEAD)
_MODEL_PATH = "/v1/models/"


def openai_model_routes(pool: Pool, routes: Callable[[], ModelRoutes]) -> list[HTTPRouteHandler]:
    """`/v1/models`, `/v1/models/NAME` and `/api/experimental/model-recommendations`."""

    def models(request: LitestarRequest) -> list[ModelView]:
        return [model_view(listed) for listed in routes().list_models(pool, rights_of(request)) if listed.infos]

    @route("/v1/models", http_method=READ, status_code=200, sync_to_thread=False)
    def list_models(request: LitestarRequest) -> Response[bytes]:
        write = listing.anthropic_models if ANTHROPIC_VERSION in request.headers else listing.openai_models
        return Response(write(models(request)), media_type=JSON)

    @route("/v1/models/{name:path}", http_method=READ, status_code=200, sync_to_thread=False)
    def get_model(request: LitestarRequest) -> Response[bytes]:
        name = str(request.scope["path"]).removeprefix(_MODEL_PATH)  # may contain slashes, as vLLM's names do
        name_model(request.scope, name)
        listed = routes().find(name, pool, rights_of(request))
        if listed is None or not listed.infos:
            raise unknown_model(name, show_text(name), cloud=NO_CLOUD_DETAILS)
        write = listing.anthropic_model if ANTHROPIC_VERSION in request.headers else listing.openai_model
        return Response(write(model_view(listed), name), media_type=JSON)

    @get("/api/experimental/model-recommendations", sync_to_thread=False)
    def list_recommendations(request: LitestarRequest) -> Response[bytes]:
        return Response(listing.recommendations(models(request)), media_type=JSON)

    return [list_models, get_model, list_recommendations]

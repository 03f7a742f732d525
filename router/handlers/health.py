"""`/livez` and `/readyz`, for load balancers and Kubernetes.

`/livez` is answered while the event loop turns, whatever happens to workers and registry. Both need no API key;
`/readyz` names models only to clients that may know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler

from vllama_pool.config.names import lookup_key
from vllama_pool.router.admission.admission import Waiting
from vllama_pool.router.admission.grant import GRANT, NAMELESS
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import Unauthorized
from vllama_pool.router.handlers.catalogue import LitestarRequest
from vllama_pool.router.handlers.request_body import rights_of
from vllama_pool.router.protocol.ollama.not_found import show_text, unknown_model
from vllama_pool.router.readiness import Readiness
from vllama_pool.router.routing.listed_model import ListedModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights
from vllama_pool.router.server.asgi import JSON
from vllama_pool.router.telemetry.ready_page import ModelReady, Policy, ReadyPage, counts, model_ready, not_ready
from vllama_pool.router.telemetry.request_record import name_model

READ = (HttpMethod.GET, HttpMethod.HEAD)
CACHED = 1.0
"""Seconds for which the models' counts are used."""
NEEDS_KEY = "unauthorized: models are named only to clients with an API key, or on the router's own machine"


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of `/readyz`."""

    readiness: Readiness
    pool: Pool
    routes: Callable[[], ModelRoutes]
    waiting: Callable[[], Iterable[Waiting]]
    """Requests that wait in this router, by model."""
    registry_read: Callable[[], bool]
    """True once the registry has been read."""
    now: Callable[[], float]
    """Monotonic seconds, on the pool's clock."""
    on_asked: Callable[[float], None] = lambda now: None
    """Called with the present time when somebody asks: canaries then keep `answered` true."""


class ReadyView:
    """Builds the pages. What the models have is counted once a second at most."""

    def __init__(self, sources: Sources, policy: Policy, window: float) -> None:
        """`window`: seconds for which a token is recent."""
        self._sources = sources
        self._policy = policy
        self._window = window
        self._counted: Mapping[str, tuple[str, ModelReady]] = {}
        self._counted_at = float("-inf")

    def page(self, rights: Rights | None, *, names: bool) -> ReadyPage:
        """`names`: name the models that the rights allow."""
        listed = self._models()
        models = {name: model for name, (_, model) in listed.items()}
        reasons = self._reasons(models)
        if not names:
            return ReadyPage(not reasons, reasons, counts(models.values()))
        if rights is not None:
            models = {name: model for name, (routed, model) in listed.items() if rights.allows(routed)}
        return ReadyPage(not reasons, reasons, counts(models.values()), models)

    def model_page(self, name: str, rights: Rights | None) -> ReadyPage:
        """Return the page for one model, by any of its names. Raises ModelNotFound."""
        sources = self._sources
        listed = sources.routes().find(name, sources.pool, rights)
        if listed is None:
            raise unknown_model(name, show_text(name))
        model = self._count(listed, self._queued())
        reasons = self._reasons({})
        if model.maintenance:
            reasons += ("the model is in maintenance",)
        elif not model.can_answer:
            reasons += ("the model has no available worker",)
        return ReadyPage(not reasons, reasons, None, {listed.name: model})

    def _reasons(self, models: Mapping[str, ModelReady]) -> tuple[str, ...]:
        sources = self._sources
        sources.on_asked(sources.now())
        seen = sources.readiness.has_seen_fleet(sources.registry_read() or len(sources.pool) > 0)
        return not_ready(self._policy, sources.readiness.draining, seen, models)

    def _models(self) -> Mapping[str, tuple[str, ModelReady]]:
        """Return the models by name, with the name that decides on rights."""
        sources, now = self._sources, self._sources.now()
        if not 0 <= now - self._counted_at < CACHED:
            queued = self._queued()
            listed = sources.routes().list_models(sources.pool)
            self._counted = {one.name: (one.routed_name, self._count(one, queued)) for one in listed}
            self._counted_at = now
        return self._counted

    def _count(self, listed: ListedModel, queued: Mapping[str, int]) -> ModelReady:
        match = self._sources.routes().rules.find(listed.routed_name)
        return model_ready(
            listed.replicas,
            self._sources.now(),
            self._window,
            queued=queued.get(lookup_key(listed.routed_name), 0),
            maintenance=match is not None and bool(match.rule.entry.maintenance),
        )

    def _queued(self) -> Mapping[str, int]:
        return {lookup_key(model): waiting for model, waiting, _ in self._sources.waiting()}


def health_routes(view: ReadyView) -> list[HTTPRouteHandler]:
    """`/livez` and `/readyz`."""

    @route("/livez", http_method=READ, status_code=200, sync_to_thread=False)
    def livez() -> Response[bytes]:
        return Response(b"ok", media_type="text/plain; charset=utf-8")

    @route("/readyz", http_method=READ, status_code=200, sync_to_thread=False)
    def readyz(request: LitestarRequest) -> Response[bytes]:
        names = request.scope.get(GRANT) is not NAMELESS
        asked = request.query_params.get("model")
        if asked is None:
            page = view.page(rights_of(request), names=names)
        elif names:
            name_model(request.scope, asked)
            page = view.model_page(asked, rights_of(request))
        else:
            raise Unauthorized(NEEDS_KEY)
        headers = {"cache-control": "no-store"}
        status = 200 if page.ready else 503
        return Response(msgspec.json.encode(page), media_type=JSON, status_code=status, headers=headers)

    return [livez, readyz]

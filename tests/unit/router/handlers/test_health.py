"""/livez and /readyz over a pool without sockets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import httpx
from litestar import Litestar

from tests.support.asgi import Scope, http_client
from tests.support.balance import DRAINING, Clock, found, pool_of
from tests.support.tables import routing_table
from vllama_pool.router.admission.admission import Waiting
from vllama_pool.router.admission.grant import GRANT, NAMELESS, Grant
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.health import ReadyView, Sources, health_routes
from vllama_pool.router.readiness import Readiness
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import NameList, Rights
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.router.telemetry.ready_page import Policy

TABLE = routing_table(models={"repaired": {"serve": "m", "maintenance": "until noon"}, "unserved": {"serve": "x"}})


@dataclass
class Router:
    """The handlers over a pool of two models, of which n has no available worker."""

    clock: Clock = field(default_factory=Clock)
    readiness: Readiness = field(default_factory=Readiness)
    registry_read: bool = True
    policy: Policy = "process"
    pool: Pool = field(init=False)
    asked: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = pool_of(self.clock, found("a", "m"), found("b", "n", load=DRAINING))
        routes = ModelRoutes(TABLE, random.Random(1))
        self.view = ReadyView(
            Sources(
                self.readiness,
                self.pool,
                lambda: routes,
                waiting=lambda: [Waiting("m", 5, absent=False)],
                registry_read=lambda: self.registry_read,
                now=self.clock,
                on_asked=self.asked.append,
            ),
            self.policy,
            60.0,
        )

    async def get(self, path: str, *, method: str = "GET", grant: Grant | None = None) -> httpx.Response:
        app = Litestar(health_routes(self.view), exception_handlers=EXCEPTION_HANDLERS, logging_config=None)

        async def with_grant(scope: Scope, receive: Any, send: Any) -> None:
            if grant is not None:
                scope[GRANT] = grant
            await app(scope, receive, send)  # type: ignore[arg-type]

        async with http_client(with_grant) as client:
            return await client.request(method, path)


async def test_livez_answers_whatever_the_state_of_the_router() -> None:
    router = Router(registry_read=False)
    router.readiness.drain()
    response = await router.get("/livez")
    assert (response.status_code, response.text) == (200, "ok")


async def test_readyz_counts_the_workers_of_each_model_and_stays_200_without_one_of_them() -> None:
    response = await Router().get("/readyz")
    page = response.json()
    assert (response.status_code, page["ready"]) == (200, True)
    assert page["models"]["m:latest"] == {"workers": 1, "available": 1, "answered": 0, "full": 0, "waiting": 5}
    assert page["models"]["n:latest"]["available"] == 0
    assert response.headers["cache-control"] == "no-store"


async def test_readyz_is_503_with_the_reason_while_the_router_drains() -> None:
    router = Router()
    router.readiness.drain("stopping")
    response = await router.get("/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["stopping"])
    router.readiness.undrain()
    assert (await router.get("/readyz")).status_code == 200


async def test_readyz_is_503_until_the_registry_was_read_or_a_worker_was_found() -> None:
    router = Router(registry_read=False)
    router.pool.remove("a", "b")
    assert (await router.get("/readyz")).status_code == 503
    router.registry_read = True
    assert (await router.get("/readyz")).status_code == 200
    router.registry_read = False  # an outage later
    assert (await router.get("/readyz")).status_code == 200


async def test_a_setting_makes_missing_models_a_503() -> None:
    response = await Router(policy="all-models").get("/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"] == ["3 of 4 models have no available worker"]


async def test_one_model_is_200_503_or_404() -> None:
    router = Router()
    statuses = {
        name: (await router.get(f"/readyz?model={name}")).status_code
        for name in ("m", "M:latest", "n", "unserved", "repaired", "nothing")
    }
    assert statuses == {"m": 200, "M:latest": 200, "n": 503, "unserved": 503, "repaired": 503, "nothing": 404}


async def test_a_model_is_not_ready_while_the_router_drains() -> None:
    router = Router()
    router.readiness.drain()
    assert (await router.get("/readyz?model=m")).status_code == 503


async def test_a_client_without_a_key_sees_the_counts_but_no_name() -> None:
    router = Router()
    page = (await router.get("/readyz", grant=NAMELESS)).json()
    assert page == {"ready": True, "counts": {"known": 4, "available": 1}}
    response = await router.get("/readyz?model=m", grant=NAMELESS)
    assert response.status_code == 401
    assert (await router.get("/readyz?model=nothing", grant=NAMELESS)).text == response.text


async def test_a_key_sees_only_the_models_that_it_may_use() -> None:
    router, grant = Router(), Grant(rights=Rights((NameList(("n",)),), lambda name: ()))
    assert list((await router.get("/readyz", grant=grant)).json()["models"]) == ["n:latest"]
    assert (await router.get("/readyz?model=m", grant=grant)).status_code == 404


async def test_head_has_the_status_of_get_without_its_body() -> None:
    router = Router()
    router.readiness.drain()
    response = await router.get("/readyz", method="HEAD")
    assert (response.status_code, response.content) == (503, b"")
    assert (await router.get("/livez", method="HEAD")).status_code == 200


async def test_counts_are_kept_for_a_second_and_reasons_are_not() -> None:
    router = Router()
    await router.get("/readyz")
    router.pool.mark_down("a")
    router.readiness.drain()
    response = await router.get("/readyz")
    assert (response.status_code, response.json()["models"]["m:latest"]["available"]) == (503, 1)
    router.clock.advance(1)
    assert (await router.get("/readyz")).json()["models"]["m:latest"]["available"] == 0


async def test_who_asks_for_readiness_keeps_canaries_alive() -> None:
    router = Router()
    await router.get("/readyz")
    assert router.asked == [router.clock()]

"""The description of a model in the catalogue, by the state of its workers."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import httpx
import pytest
from litestar import Litestar

from tests.support.asgi import http_client
from tests.support.balance import DRAINING, READY, RESTARTING, Clock, found, pool_of
from tests.support.protocol import CLOCK, StillClock, use_once
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.catalogue import catalogue_routes, model_view
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker, ModelUses
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

LONG, SHORT = (ModelInfo(name="m", digest="ab" * 32, context_length=length) for length in (4096, 1024))


def view_of(pool: Pool, name: str = "m", *made: VirtualModel) -> ModelView:
    routes = ModelRoutes(RoutingTable(), random.Random(1), virtual={key_of(model.name): model for model in made})
    listed = routes.find(name, pool)
    assert listed is not None
    return model_view(listed)


@pytest.mark.rule(22)
def test_a_model_is_loaded_while_any_of_its_workers_serves() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", LONG, load=RESTARTING))
    assert view_of(pool).loaded
    pool.report("a", DRAINING)
    assert not view_of(pool).loaded


def test_a_down_worker_describes_the_model_only_if_no_other_worker_does() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", SHORT, load=READY))
    assert view_of(pool).merged.info.context_length == 1024
    pool.mark_down("b")
    assert view_of(pool).merged.info.context_length == 4096
    assert view_of(pool).merged.differ == {}
    pool.mark_down("a")
    assert view_of(pool).merged.info.context_length == 1024
    assert not view_of(pool).loaded


def test_a_restarting_worker_keeps_its_model_listed() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", SHORT, load=RESTARTING))
    assert view_of(pool).merged.differ == {"context_length": [1024, 4096]}


@pytest.mark.rule(174)
def test_a_plain_copy_keeps_the_models_digest_and_a_changed_one_gets_its_own() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY))
    copy = VirtualModel(name="copy:latest", revision=1, base="m:latest", changed=5.0)
    mario = VirtualModel(name="mario:latest", revision=1, base="m:latest", system="You are Mario.", changed=7.0)
    served = view_of(pool, "m", copy, mario)
    assert view_of(pool, "copy", copy, mario).digest == served.digest
    made = view_of(pool, "mario", copy, mario)
    assert len({made.digest, served.digest}) == 2
    assert (made.base, made.modified, made.defaults.system) == ("m:latest", 7.0, "You are Mario.")


class SteppedClock(StillClock):
    step = 0
    """Seconds by which the time of day was set."""

    def time_ns(self) -> int:
        return super().time_ns() + self.step * 10**9


class Routes:
    """The routes over one pool, at a fixed time."""

    def __init__(self, pool: Pool, *virtual: VirtualModel, clock: StillClock = CLOCK) -> None:
        self.expiry = ExpiryTracker(300 * 10**9)
        self.elsewhere = ExpiryTracker(300 * 10**9)
        """Another process's."""
        routes = ModelRoutes(RoutingTable(), random.Random(1), virtual={key_of(model.name): model for model in virtual})
        self._app = Litestar(
            catalogue_routes(pool, lambda: routes, self.expiry, self._collect_uses, clock, "0.40.1"),
            exception_handlers=EXCEPTION_HANDLERS,
            logging_config=None,
        )

    async def _collect_uses(self) -> list[ModelUses]:
        return [self.expiry.uses(), self.elsewhere.uses()]

    async def fetch(self, method: str, path: str, **body: Any) -> httpx.Response:
        async with http_client(self._app) as client:
            return await client.request(method, path, json=body or None)

    async def names(self, path: str) -> list[str]:
        return sorted(model["name"] for model in (await self.fetch("GET", path)).json()["models"])


MARIO = VirtualModel(name="mario:latest", revision=1, base="m:latest", system="You are Mario.")


async def test_tags_lists_models_in_any_state_and_ps_only_loaded_ones() -> None:
    routes = Routes(pool_of(Clock(), found("a", "m", load=READY), found("b", "n", load=RESTARTING)))
    assert await routes.names("/api/tags") == ["m:latest", "n:latest"]
    assert await routes.names("/api/ps") == ["m:latest"]


async def test_ps_lists_a_virtual_model_only_while_its_keep_alive_lasts() -> None:
    routes = Routes(pool_of(Clock(), found("a", load=READY)), MARIO)
    assert await routes.names("/api/tags") == ["m:latest", "mario:latest"]
    assert await routes.names("/api/ps") == ["m:latest"]
    use_once(routes.expiry, "mario:latest", None, CLOCK.monotonic_ns())
    assert await routes.names("/api/ps") == ["m:latest", "mario:latest"]


@pytest.mark.parametrize("step", [3600, -3600])
async def test_a_clock_that_is_set_expires_nothing_and_moves_the_time_that_ps_shows(step: int) -> None:
    clock = SteppedClock()
    routes = Routes(pool_of(Clock(), found("a", load=READY)), MARIO, clock=clock)
    use_once(routes.expiry, "mario:latest", 60 * 10**9, clock.monotonic_ns())
    clock.step = step
    models = (await routes.fetch("GET", "/api/ps")).json()["models"]
    [expires] = [model["expires_at"] for model in models if model["name"] == "mario:latest"]
    left = datetime.fromisoformat(expires).timestamp() - clock.time_ns() / 1e9
    assert left == pytest.approx(60)


async def test_ps_counts_the_uses_in_all_processes() -> None:
    routes = Routes(pool_of(Clock(), found("a", load=READY)), MARIO)
    now = CLOCK.monotonic_ns()
    use_once(routes.elsewhere, "mario:latest", 10**15, at=now - 4)
    assert await routes.names("/api/ps") == ["m:latest", "mario:latest"]
    use_once(routes.elsewhere, "mario:latest", 0, at=now - 3)
    assert await routes.names("/api/ps") == ["m:latest"]
    use = routes.elsewhere.begin("mario:latest", 0, at=now - 2, now=now - 2)
    assert await routes.names("/api/ps") == ["m:latest", "mario:latest"]
    use.end(at=now - 1)
    assert await routes.names("/api/ps") == ["m:latest"]


@pytest.mark.parametrize("path", ["/api/tags", "/api/version"])
async def test_tags_and_version_answer_head_without_a_body(path: str) -> None:
    response = await Routes(pool_of(Clock(), found("a"))).fetch("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


async def test_show_describes_a_virtual_model() -> None:
    response = await Routes(pool_of(Clock(), found("a", LONG)), MARIO).fetch("POST", "/api/show", model="mario")
    assert response.status_code == 200
    assert response.json()["system"] == "You are Mario."


async def test_show_of_an_unknown_model_or_of_one_without_workers_gets_404() -> None:
    pool = pool_of(Clock(), found("a"))
    pool.remove("a")
    for name in ("m", "nope", "mario"):
        response = await Routes(pool, MARIO).fetch("POST", "/api/show", model=name)
        assert (response.status_code, response.json()) == (404, {"error": f"model '{name}:latest' not found"})

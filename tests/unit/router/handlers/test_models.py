"""create, copy, delete and pull: the responses, with a registry in memory."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest
from litestar import Litestar

from tests.support.asgi import http_client
from tests.support.balance import Clock, found, pool_of
from tests.support.registry.fake_registry import FakeRegistry
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.handlers.models import model_routes
from vllama_pool.router.protocol.ollama.pull import NOT_FOUND
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.router.virtual_models.change_plans import WRITES_OFF, Inventory
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.virtual_models.sync import ModelSync

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"


class Router:
    """The routes over one worker that serves "m"."""

    def __init__(self, refusal: str = "") -> None:
        self.registry = FakeRegistry()
        self.store = ModelStore()
        policy = SignaturePolicy("f", b"fleet secret", allow_unsigned=False)
        sync = ModelSync(self.registry, self.store, policy, router_id="me")
        pool = pool_of(Clock(), found("a"))
        routes = ModelRoutes(RoutingTable(), random.Random(1), virtual=self.store.live)
        self.app = Litestar(
            model_routes(sync, lambda rights: Inventory(routes, pool, self.store.live, refusal, rights)),
            exception_handlers=EXCEPTION_HANDLERS,
            logging_config=None,
        )

    async def send(self, method: str, path: str, **body: Any) -> httpx.Response:
        async with http_client(self.app) as client:
            return await client.request(method, path, json=body)

    @property
    def names(self) -> list[str]:
        return sorted(model.name for model in self.store.live.values())


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_create_stores_the_model_and_streams_its_progress() -> None:
    router = Router()
    response = await router.send("POST", "/api/create", model="mario", system="You are Mario.", **{"from": "m"})
    assert (response.status_code, response.headers["content-type"]) == (200, NDJSON)
    assert lines(response)[-1] == {"status": "success"}
    assert any("creating new layer" in line["status"] for line in lines(response))
    assert router.names == ["mario:latest"]


@pytest.mark.rule(104)
async def test_create_without_streaming_returns_the_success_line_only() -> None:
    router = Router()
    response = await router.send("POST", "/api/create", model="mario", stream=False, **{"from": "m"})
    assert (response.headers["content-type"], response.json()) == (JSON, {"status": "success"})
    assert router.names == ["mario:latest"]


@pytest.mark.rule(105)
@pytest.mark.parametrize(("path", "fields"), [("/api/create", {"from": "nope"}), ("/api/pull", {})])
async def test_a_missing_base_is_an_error_line_when_streaming_and_a_500_otherwise(
    path: str, fields: dict[str, str]
) -> None:
    router = Router()
    streamed = await router.send("POST", path, model="other", **fields)
    assert (streamed.status_code, lines(streamed)[-1]) == (200, {"error": NOT_FOUND})
    whole = await router.send("POST", path, model="other", stream=False, **fields)
    assert (whole.status_code, whole.json()) == (500, {"error": NOT_FOUND})
    assert router.names == []


async def test_create_plans_again_if_another_router_changed_the_model_meanwhile() -> None:
    """The registry refuses the first write, so that the plan is made twice; the response is of the second."""
    router, other = Router(), Router()
    await other.send("POST", "/api/create", model="mario", system="Another.", **{"from": "m"})
    ((key, envelope),) = other.registry.entries.items()

    def overtake() -> None:
        router.registry.before_put = lambda: None
        router.registry.put(key, envelope)

    router.registry.before_put = overtake
    response = await router.send("POST", "/api/create", model="mario", system="Ours.", **{"from": "m"})
    assert lines(response)[-1] == {"status": "success"}
    assert [model.system for model in router.store.live.values()] == ["Ours."]
    assert router.registry.changes == 2


async def test_copy_and_delete_answer_200_without_body_or_content_type() -> None:
    router = Router()
    copied = await router.send("POST", "/api/copy", source="m", destination="copy")
    assert router.names == ["copy:latest"]
    deleted = await router.send("DELETE", "/api/delete", model="copy")
    assert router.names == []
    for response in (copied, deleted):
        assert (response.status_code, response.content) == (200, b"")
        assert "content-type" not in response.headers


async def test_copying_a_model_onto_itself_succeeds_and_writes_nothing() -> None:
    router = Router()
    assert (await router.send("POST", "/api/copy", source="m", destination="m:latest")).status_code == 200
    assert router.registry.puts == []


async def test_pull_of_a_served_model_streams_progress_without_the_registry() -> None:
    router = Router()
    router.registry.unavailable = True
    response = await router.send("POST", "/api/pull", model="m")
    assert lines(response)[0] == {"status": "pulling manifest"}
    assert lines(response)[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/create", {"model": "mario", "from": "m"}),
        ("POST", "/api/copy", {"source": "m", "destination": "copy"}),
        ("DELETE", "/api/delete", {"model": "m"}),
    ],
)
async def test_a_refused_change_has_its_own_status_even_when_streaming(
    method: str, path: str, body: dict[str, str]
) -> None:
    router = Router(refusal=WRITES_OFF)
    response = await router.send(method, path, **body)
    assert (response.status_code, response.json()) == (403, {"error": WRITES_OFF})


async def test_a_change_without_a_registry_gets_503_and_retry_after_before_the_stream() -> None:
    router = Router()
    router.registry.unavailable = True
    response = await router.send("POST", "/api/create", model="mario", **{"from": "m"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "models cannot be changed now" in response.json()["error"]

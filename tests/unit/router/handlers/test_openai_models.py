"""OpenAI's model lists and Ollama's recommendations, over the pool's state."""

from __future__ import annotations

import random

import httpx
import pytest
from litestar import Litestar

from tests.support.asgi import http_client
from tests.support.balance import Clock, found, pool_of
from tests.support.tables import routing_table
from vllama_pool.router.handlers.openai_models import openai_model_routes
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.workers.registry.record import ModelInfo

CHAT = ModelInfo(name="m", context_length=2048, capabilities=("completion",))
VECTORS = ModelInfo(name="org/vec", capabilities=("embedding",))
TABLE = routing_table(models={"unserved": {"serve": "nothing"}})


async def fetch(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    pool = pool_of(Clock(), found("a", CHAT), found("b", VECTORS))
    routes = ModelRoutes(TABLE, random.Random(1))
    app = Litestar(
        openai_model_routes(pool, lambda: routes), exception_handlers=EXCEPTION_HANDLERS, logging_config=None
    )
    async with http_client(app) as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.rule(117)
async def test_v1_models_lists_the_models_that_have_workers() -> None:
    response = await fetch("/v1/models")
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert [model["id"] for model in response.json()["data"]] == ["m:latest", "org/vec:latest"]


@pytest.mark.rule(117)
@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("m", "m"),
        ("M:latest", "M:latest"),
        ("m%3Alatest", "m:latest"),
        ("org/vec", "org/vec"),
        ("org/vec:latest", "org/vec:latest"),
        ("org%2Fvec", "org/vec"),
        ("%6Frg%2fVEC%3alatest", "org/VEC:latest"),
        ("registry.ollama.ai/library/m", "registry.ollama.ai/library/m"),
    ],
)
async def test_one_model_is_found_by_any_spelling_and_echoes_the_requested_name(spelling: str, name: str) -> None:
    response = await fetch(f"/v1/models/{spelling}")
    assert (response.status_code, response.json()["id"]) == (200, name)


async def test_clients_of_anthropics_api_get_its_format() -> None:
    version = {"anthropic-version": "2023-06-01"}
    page = (await fetch("/v1/models?limit=1", **version)).json()
    assert [(model["type"], model["id"]) for model in page["data"]] == [
        ("model", "m:latest"),
        ("model", "org/vec:latest"),
    ]
    assert page["has_more"] is False
    assert (await fetch("/v1/models/org%2Fvec", **version)).json()["id"] == "org/vec"


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/v1/models/org/vec", 200), ("/v1/models/no", 404)])
async def test_a_head_request_has_the_status_and_headers_of_a_get(path: str, status: int) -> None:
    response = await fetch(path, "HEAD")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("name", ["nope", "org/nope", "unserved"])
async def test_an_unknown_or_unserved_model_gets_openais_404(name: str) -> None:
    response = await fetch(f"/v1/models/{name}")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


async def test_only_models_that_chat_are_recommended() -> None:
    response = await fetch("/api/experimental/model-recommendations")
    assert [model["model"] for model in response.json()["recommendations"]] == ["m:latest"]

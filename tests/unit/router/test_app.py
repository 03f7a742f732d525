"""The assembled application, without workers, sockets or a registry."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, get, post

from tests.support.asgi import http_client
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import RoutingError, RoutingTable
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.router.app import create_app, served_methods
from vllama_pool.router.server.gate import Gate


def application(tmp_path: Path, table: RoutingTable | None = None, **fields: Any) -> Gate:
    settings = RouterSettings(registry=RegistrySettings(state_dir=tmp_path), **fields)
    return create_app(settings, table or RoutingTable(), log_stream=io.BytesIO())


async def fetch(app: Gate, method: str, path: str, **more: Any) -> httpx.Response:
    async with http_client(app) as client:
        return await client.request(method, path, **more)


async def test_the_version_is_the_settings(tmp_path: Path) -> None:
    response = await fetch(application(tmp_path, version="0.40.1"), "GET", "/api/version")
    assert response.json() == {"version": "0.40.1"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
async def test_each_operation_has_a_route(tmp_path: Path, path: str) -> None:
    response = await fetch(application(tmp_path), "POST", path, json={"model": "nope"})
    assert response.status_code == 404
    assert "nope" in response.json()["error"]


async def test_a_configured_model_without_a_worker_gets_503_at_once(tmp_path: Path) -> None:
    table = routing_table(models={"big": {"serve": "llama"}})
    response = await fetch(application(tmp_path, table), "POST", "/api/chat", json={"model": "big"})
    assert response.status_code == 503
    assert "no worker is available for model 'big'" in response.json()["error"]


@pytest.mark.rule(36)
@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 200, b"Ollama is running"),
        ("GET", "/api/nothing", 404, b"404 page not found"),
        ("GET", "/api/chat", 405, b"405 method not allowed"),
        ("PUT", "/api/create", 405, b"405 method not allowed"),
    ],
)
async def test_unserved_paths_and_methods_get_ollamas_texts(
    tmp_path: Path, method: str, path: str, status: int, body: bytes
) -> None:
    response = await fetch(application(tmp_path), method, path)
    assert (response.status_code, response.content) == (status, body)


async def test_the_gate_guards_every_route(tmp_path: Path) -> None:
    app = application(tmp_path)
    for path in ("/", "/api/version", "/metrics", "/api/nothing"):
        assert (await fetch(app, "GET", path, headers={"host": "evil.com"})).status_code == 403


@pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/api/create"])
async def test_the_body_limit_is_the_settings(tmp_path: Path, path: str) -> None:
    app = application(tmp_path, body_limit=1000)
    assert (await fetch(app, "POST", path, content=b" " * 1001)).status_code == 413
    assert (await fetch(app, "POST", path, content=b" " * 1000)).status_code == 400


async def test_the_body_limit_applies_to_bodies_without_a_content_length(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b" " * 600

    app = application(tmp_path, body_limit=1000)
    for path in ("/api/chat", "/api/show"):
        assert (await fetch(app, "POST", path, content=chunks())).status_code == 413


async def test_model_changes_are_refused_if_the_settings_say_so(tmp_path: Path) -> None:
    app = application(tmp_path, model_writes=False)
    response = await fetch(app, "POST", "/api/create", json={"model": "v", "from": "m", "stream": False})
    assert (response.status_code, "VLLAMA_MODEL_WRITES" in response.json()["error"]) == (403, True)


async def test_metrics_count_requests_of_this_application_only(tmp_path: Path) -> None:
    one, other = application(tmp_path), application(tmp_path)
    await fetch(one, "POST", "/api/chat", json={"model": "nope"})
    line = 'vllama_requests_total{model="unknown",operation="chat",status="404"} 1.0'
    assert line in (await fetch(one, "GET", "/metrics")).text
    assert line not in (await fetch(other, "GET", "/metrics")).text


async def test_admin_workers_reports_one_process_without_workers(tmp_path: Path) -> None:
    page = (await fetch(application(tmp_path), "GET", "/admin/workers")).json()
    assert (page["workers"], page["processes"]) == ([], {"total": 1, "answered": 1})


def test_an_invalid_routing_file_raises_routing_error(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models: 1")
    settings = RouterSettings(registry=RegistrySettings(state_dir=tmp_path), routing_file=file)
    with pytest.raises(RoutingError):
        create_app(settings)


def test_served_methods_lists_handlers_without_options() -> None:
    @get("/a", sync_to_thread=False)
    def read() -> None: ...

    @post("/a", sync_to_thread=False)
    def write() -> None: ...

    app = Litestar([read, write], openapi_config=None, logging_config=None)
    assert {path: set(methods) for path, methods in served_methods(app)} == {"/a": {"GET", "POST"}}

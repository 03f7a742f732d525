"""Exceptions of Litestar's routes become responses in the format of the path's API."""

from __future__ import annotations

import logging

import httpx
import pytest
from litestar import Litestar, Request, get, post
from litestar.exceptions import HTTPException

from tests.support.asgi import http_client
from vllama_pool.router.errors import BadRequest, NoWorker
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS

SECRET = "a secret of the traceback"


@get(["/api/bad", "/v1/bad", "/v1/messages/bad"], sync_to_thread=False)
def bad() -> None:
    raise BadRequest("no such thing")


@get("/api/out", sync_to_thread=False)
def out() -> None:
    raise NoWorker("no worker", retry_after=5)


@get("/api/litestar", sync_to_thread=False)
def litestar() -> None:
    raise HTTPException("a teapot", status_code=418)


@get(["/api/bug", "/api/bug/{rest:path}"], sync_to_thread=False)
def bug() -> None:
    raise RuntimeError(SECRET)


@post("/api/read")
async def read(request: Request[None, None, object]) -> None:  # type: ignore[type-var]
    await request.body()


APP = Litestar(
    [bad, out, litestar, bug, read],
    exception_handlers=EXCEPTION_HANDLERS,
    request_max_body_size=2**20,
    logging_config=None,
)


async def fetch(path: str) -> httpx.Response:
    async with http_client(APP) as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/bad", {"error": "no such thing"}),
        (
            "/v1/bad",
            {"error": {"message": "no such thing", "type": "invalid_request_error", "param": None, "code": None}},
        ),
        (
            "/v1/messages/bad",
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "no such thing"},
                "request_id": "req_id-1",
            },
        ),
    ],
)
async def test_a_client_error_has_its_status_and_text_in_the_paths_format(path: str, body: object) -> None:
    response = await fetch(path)
    assert (response.status_code, response.json()) == (400, body)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert "retry-after" not in response.headers


async def test_retry_after_is_sent_if_the_error_has_it() -> None:
    response = await fetch("/api/out")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


async def test_litestars_own_errors_have_ollamas_format() -> None:
    response = await fetch("/api/litestar")
    assert (response.status_code, response.json()) == (418, {"error": "a teapot"})


async def test_a_body_over_the_limit_without_content_length_gets_the_413_that_names_the_limit() -> None:
    async def chunks() -> object:
        yield b" " * (2**20 + 1)

    async with http_client(APP) as client:
        response = await client.post("/api/read", content=chunks())
    assert response.status_code == 413
    assert response.json() == {"error": "request body is larger than 1 MiB; send less, or raise VLLAMA_BODY_LIMIT"}


async def test_an_unexpected_exception_is_logged_with_its_traceback_but_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await fetch("/api/bug")
    assert (response.status_code, response.json()) == (500, {"error": "internal error of the router; see its log"})
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "/api/bug" in record.getMessage()
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


async def test_a_long_path_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert (await fetch(f"/api/bug/{'x' * 5000}")).status_code == 500
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(record.getMessage()) < 200

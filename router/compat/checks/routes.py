"""Routes and fixed responses."""

from __future__ import annotations

import re

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import (
    JSON,
    Skipped,
    content_type,
    error,
    expect,
    field,
    json_object,
    parsed,
    same,
    status,
)
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

BANNER = b"Ollama is running"
PLAIN = "text/plain; charset=utf-8"
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?\Z")
SOURCES = ("none", "env", "config", "both")
UNKNOWN_BLOB = "sha256:" + "0123456789abcdef" * 4


def is_banner(response: RawResponse) -> None:
    status(response, 200)
    same("body", BANNER, response.body)


def expect_head(response: RawResponse, whole: RawResponse) -> None:
    """Require GET's status and type, and no body."""
    same("status", whole.status, response.status)
    same("body", b"", response.body)
    same("Content-Type", whole.header("content-type"), response.header("content-type"))


@covers(1)
async def head_of_the_root_is_get_without_a_body(server: CheckedServer) -> None:
    whole = await server.get("/")
    is_banner(whole)
    expect_head(await server.send("HEAD", "/"), whole)


@covers(2)
async def the_root_returns_the_banner(server: CheckedServer) -> None:
    response = await server.get("/")
    is_banner(response)
    content_type(response, PLAIN)


@covers(3)
async def head_of_the_version_is_get_without_a_body(server: CheckedServer) -> None:
    whole = await server.get("/api/version")
    json_object(whole)
    content_type(whole, JSON)
    expect_head(await server.send("HEAD", "/api/version"), whole)


@covers(4)
async def the_version_is_three_numbers(server: CheckedServer) -> None:
    found = json_object(await server.get("/api/version"))
    version = field(found, "version", str)
    expect(VERSION.match(version), "a version like 0.17.6", version)
    same("keys", ["version"], list(found))


async def cloud_is_off(server: CheckedServer) -> bool:
    cloud = field(json_object(await server.get("/api/status")), "cloud", dict)
    return field(cloud, "disabled", bool)


@covers(5)
async def status_names_the_cloud_setting(server: CheckedServer) -> None:
    await cloud_is_off(server)
    cloud = field(json_object(await server.get("/api/status")), "cloud", dict)
    source = field(cloud, "source", str)
    expect(source in SOURCES, f"source as one of {', '.join(SOURCES)}", source)


@covers(8)
async def head_of_tags_is_get_without_a_body(server: CheckedServer) -> None:
    whole = await server.get("/api/tags")
    json_object(whole)
    content_type(whole, JSON)
    expect_head(await server.send("HEAD", "/api/tags"), whole)


@covers(12)
async def me_returns_a_user_or_a_401(server: CheckedServer) -> None:
    response = await server.post("/api/me")
    found = json_object(response, code=response.status if response.status in (200, 401, 503) else 401)
    if response.status == 200:
        field(found, "name", str)
        return
    text = {401: "unauthorized", 503: "account unavailable"}[response.status]
    same("error", text, field(found, "error", str))


async def signed_out(server: CheckedServer, method: str, path: str) -> None:
    """Raises Skipped if somebody is signed in."""
    me = await server.post("/api/me")
    if me.status != 401:
        json_object(me, code=me.status if me.status in (200, 503) else 401)
        if me.status == 200:
            field(json_object(me), "name", str)
        raise Skipped("somebody is signed in, or ollama.com cannot be asked")
    error(await server.send(method, path), 401, "you are not currently signed in")


@covers(13)
async def signing_out_without_signing_in_is_a_401(server: CheckedServer) -> None:
    await signed_out(server, "POST", "/api/signout")


@covers(14)
async def signing_out_by_the_older_route_is_a_401(server: CheckedServer) -> None:
    await signed_out(server, "DELETE", "/api/user/keys/bm9ib2R5")


@covers(16)
async def blobs_require_a_valid_digest(server: CheckedServer) -> None:
    error(await server.send("POST", "/api/blobs/nonsense", b"x"), 400, "invalid digest format")


@covers(17)
async def head_of_an_unknown_blob_is_a_404(server: CheckedServer) -> None:
    for digest, code in ((UNKNOWN_BLOB, 404), ("nonsense", 400)):
        response = await server.send("HEAD", f"/api/blobs/{digest}")
        same("status", code, response.status)
        same("body", b"", response.body)


async def refused_without_cloud(server: CheckedServer, path: str, what: str) -> None:
    if not await cloud_is_off(server):
        raise Skipped("the cloud is on")
    body = {"query": "anything", "url": "http://localhost"}
    error(await server.post(path, body), 403, f"ollama cloud is disabled: {what} is unavailable")


@covers(19)
async def web_search_is_refused_without_cloud(server: CheckedServer) -> None:
    await refused_without_cloud(server, "/api/experimental/web_search", "web search")


@covers(20)
async def web_fetch_is_refused_without_cloud(server: CheckedServer) -> None:
    await refused_without_cloud(server, "/api/experimental/web_fetch", "web fetch")


@covers(21)
async def recommendations_are_a_list(server: CheckedServer) -> None:
    found = json_object(await server.get("/api/experimental/model-recommendations"))
    for item in field(found, "recommendations", list):
        field(item, "model", str)
        field(item, "description", str)


def expect_plain_error(response: RawResponse, code: int, text: bytes) -> None:
    """Errors of Ollama's web framework are plain text."""
    status(response, code)
    same("body", text, response.body)
    expect(
        (response.header("content-type") or "").startswith("text/plain"), "text/plain", response.header("content-type")
    )


def absent(rule: int, method: str, path: str) -> Check:

    async def run(server: CheckedServer) -> None:
        expect_plain_error(
            await server.send(method, path, {} if method == "POST" else None), 404, b"404 page not found"
        )

    return Check(frozenset({rule}), f"no {method} {path}", run)


ABSENT_ROUTES = (
    absent(35, "POST", "/api/tokenize"),
    absent(35, "POST", "/api/detokenize"),
    absent(35, "POST", "/v1/images/generations"),
    absent(36, "GET", "/vllama/compat"),
    absent(36, "POST", "/api/vllama-compat"),
    absent(113, "GET", "/api/experimental/vllama-compat"),
)


def wrong_method(method: str, path: str) -> Check:

    async def run(server: CheckedServer) -> None:
        expect_plain_error(await server.send(method, path), 405, b"405 method not allowed")

    return Check(frozenset({36}), f"405 for {method} {path}", run)


WRONG_METHODS = (
    wrong_method("GET", "/api/generate"),
    wrong_method("GET", "/api/chat"),
    wrong_method("GET", "/api/show"),
    wrong_method("POST", "/api/tags"),
    wrong_method("PUT", "/api/version"),
    wrong_method("DELETE", "/"),
)


@covers(36)
async def head_is_a_405_on_most_routes(server: CheckedServer) -> None:
    same("status", 405, (await server.send("HEAD", "/api/ps")).status)
    same("status", 405, (await server.send("HEAD", "/api/show")).status)


@covers(36)
async def a_trailing_slash_is_redirected(server: CheckedServer) -> None:
    for method, path, code in (("GET", "/api/tags", 301), ("POST", "/api/chat", 307)):
        response = await server.send(method, f"{path}/", {} if method == "POST" else None)
        same("status", code, response.status)
        location = response.header("location") or ""
        expect(location.split("?")[0].endswith(path), f"Location {path}", location)


@covers(38)
async def cloud_models_are_refused_without_cloud(server: CheckedServer) -> None:
    if not await cloud_is_off(server):
        raise Skipped("the cloud is on")
    gone = "ollama cloud is disabled: remote model"
    for path in ("/api/generate", "/api/chat", "/api/embed"):
        for name in ("vllama-compat:cloud", "vllama-compat:8b-cloud"):
            error(await server.post(path, {"model": name, "input": "x"}), 403, f"{gone} is unavailable")
    error(await server.post("/api/show", {"model": "vllama-compat:cloud"}), 403, f"{gone} details are unavailable")


@covers(21)
async def recommendations_are_json(server: CheckedServer) -> None:
    response = await server.get("/api/experimental/model-recommendations")
    status(response, 200)
    content_type(response, JSON)
    parsed(response.body)

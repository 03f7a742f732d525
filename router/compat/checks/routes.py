"""Which routes there are, and what the small ones say (R001-R038, R113)."""

from __future__ import annotations

import re

from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.expect import (
    JSON,
    Skipped,
    an_object,
    content_type,
    error,
    expect,
    parsed,
    same,
    status,
    take,
)
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import Reply

BANNER = b"Ollama is running"
PLAIN = "text/plain; charset=utf-8"
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?\Z")
SOURCES = ("none", "env", "config", "both")
UNKNOWN_BLOB = "sha256:" + "0123456789abcdef" * 4


def is_banner(reply: Reply) -> None:
    status(reply, 200)
    same("body", BANNER, reply.body)


def as_head(reply: Reply, whole: Reply) -> None:
    """The same status and type as GET, and no body."""
    same("status", whole.status, reply.status)
    same("body", b"", reply.body)
    same("Content-Type", whole.header("content-type"), reply.header("content-type"))


@covers(1)
async def head_of_the_root(target: Target) -> None:
    whole = await target.get("/")
    is_banner(whole)
    as_head(await target.send("HEAD", "/"), whole)


@covers(2)
async def the_root_says_that_it_runs(target: Target) -> None:
    reply = await target.get("/")
    is_banner(reply)
    content_type(reply, PLAIN)


@covers(3)
async def head_of_the_version(target: Target) -> None:
    whole = await target.get("/api/version")
    an_object(whole)
    content_type(whole, JSON)
    as_head(await target.send("HEAD", "/api/version"), whole)


@covers(4)
async def the_version_is_plain(target: Target) -> None:
    found = an_object(await target.get("/api/version"))
    version = take(found, "version", str)
    expect(VERSION.match(version), "a version like 0.17.6", version)
    same("keys", ["version"], list(found))


async def cloud_is_off(target: Target) -> bool:
    """Whether the server says that the cloud is disabled."""
    cloud = take(an_object(await target.get("/api/status")), "cloud", dict)
    return take(cloud, "disabled", bool)


@covers(5)
async def the_status_tells_of_the_cloud(target: Target) -> None:
    await cloud_is_off(target)
    cloud = take(an_object(await target.get("/api/status")), "cloud", dict)
    source = take(cloud, "source", str)
    expect(source in SOURCES, f"source as one of {', '.join(SOURCES)}", source)


@covers(8)
async def head_of_the_tags(target: Target) -> None:
    whole = await target.get("/api/tags")
    an_object(whole)
    content_type(whole, JSON)
    as_head(await target.send("HEAD", "/api/tags"), whole)


@covers(12)
async def me_is_known_or_not(target: Target) -> None:
    reply = await target.post("/api/me")
    found = an_object(reply, wanted=reply.status if reply.status in (200, 401, 503) else 401)
    if reply.status == 200:
        take(found, "name", str)
        return
    text = {401: "unauthorized", 503: "account unavailable"}[reply.status]
    same("error", text, take(found, "error", str))


async def signed_out(target: Target, method: str, path: str) -> None:
    """Nobody is signed in, and signing out says so. Not tried where somebody is: it would work."""
    me = await target.post("/api/me")
    if me.status != 401:
        an_object(me, wanted=me.status if me.status in (200, 503) else 401)
        if me.status == 200:
            take(an_object(me), "name", str)
        raise Skipped("somebody is signed in, or ollama.com cannot be asked")
    error(await target.send(method, path), 401, "you are not currently signed in")


@covers(13)
async def signing_out_without_having_signed_in(target: Target) -> None:
    await signed_out(target, "POST", "/api/signout")


@covers(14)
async def signing_out_by_the_older_route(target: Target) -> None:
    await signed_out(target, "DELETE", "/api/user/keys/bm9ib2R5")


@covers(16)
async def blobs_need_a_digest(target: Target) -> None:
    error(await target.send("POST", "/api/blobs/nonsense", b"x"), 400, "invalid digest format")


@covers(17)
async def blobs_are_looked_up(target: Target) -> None:
    for digest, wanted in ((UNKNOWN_BLOB, 404), ("nonsense", 400)):
        reply = await target.send("HEAD", f"/api/blobs/{digest}")
        same("status", wanted, reply.status)
        same("body", b"", reply.body)


async def refused_without_cloud(target: Target, path: str, what: str) -> None:
    if not await cloud_is_off(target):
        raise Skipped("the cloud is on")
    body = {"query": "anything", "url": "http://localhost"}
    error(await target.post(path, body), 403, f"ollama cloud is disabled: {what} is unavailable")


@covers(19)
async def no_web_search_without_cloud(target: Target) -> None:
    await refused_without_cloud(target, "/api/experimental/web_search", "web search")


@covers(20)
async def no_web_fetch_without_cloud(target: Target) -> None:
    await refused_without_cloud(target, "/api/experimental/web_fetch", "web fetch")


@covers(21)
async def recommended_models(target: Target) -> None:
    found = an_object(await target.get("/api/experimental/model-recommendations"))
    for item in take(found, "recommendations", list):
        take(item, "model", str)
        take(item, "description", str)


def not_there(reply: Reply, wanted: int, text: bytes) -> None:
    """A plain text, as the web framework of Ollama has it."""
    status(reply, wanted)
    same("body", text, reply.body)
    expect((reply.header("content-type") or "").startswith("text/plain"), "text/plain", reply.header("content-type"))


def absent(rule: int, method: str, path: str) -> Check:
    """A route that there is not."""

    async def ask(target: Target) -> None:
        not_there(await target.send(method, path, {} if method == "POST" else None), 404, b"404 page not found")

    return Check(frozenset({rule}), f"no {method} {path}", ask)


ABSENT_ROUTES = (
    absent(35, "POST", "/api/tokenize"),
    absent(35, "POST", "/api/detokenize"),
    absent(35, "POST", "/v1/images/generations"),
    absent(36, "GET", "/vllama/compat"),
    absent(36, "POST", "/api/vllama-compat"),
    absent(113, "GET", "/api/experimental/vllama-compat"),
)


def wrong_method(method: str, path: str) -> Check:
    """A route that there is, by another method."""

    async def ask(target: Target) -> None:
        not_there(await target.send(method, path), 405, b"405 method not allowed")

    return Check(frozenset({36}), f"405 for {method} {path}", ask)


WRONG_METHODS = (
    wrong_method("GET", "/api/generate"),
    wrong_method("GET", "/api/chat"),
    wrong_method("GET", "/api/show"),
    wrong_method("POST", "/api/tags"),
    wrong_method("PUT", "/api/version"),
    wrong_method("DELETE", "/"),
)


@covers(36)
async def head_is_no_method_of_most_routes(target: Target) -> None:
    same("status", 405, (await target.send("HEAD", "/api/ps")).status)
    same("status", 405, (await target.send("HEAD", "/api/show")).status)


@covers(36)
async def a_slash_at_the_end_is_redirected(target: Target) -> None:
    for method, path, wanted in (("GET", "/api/tags", 301), ("POST", "/api/chat", 307)):
        reply = await target.send(method, f"{path}/", {} if method == "POST" else None)
        same("status", wanted, reply.status)
        location = reply.header("location") or ""
        expect(location.split("?")[0].endswith(path), f"Location {path}", location)


@covers(38)
async def cloud_models_are_refused_without_cloud(target: Target) -> None:
    if not await cloud_is_off(target):
        raise Skipped("the cloud is on")
    gone = "ollama cloud is disabled: remote model"
    for path in ("/api/generate", "/api/chat", "/api/embed"):
        for name in ("vllama-compat:cloud", "vllama-compat:8b-cloud"):
            error(await target.post(path, {"model": name, "input": "x"}), 403, f"{gone} is unavailable")
    error(await target.post("/api/show", {"model": "vllama-compat:cloud"}), 403, f"{gone} details are unavailable")


@covers(21)
async def recommended_models_are_json(target: Target) -> None:
    reply = await target.get("/api/experimental/model-recommendations")
    status(reply, 200)
    content_type(reply, JSON)
    parsed(reply.body)

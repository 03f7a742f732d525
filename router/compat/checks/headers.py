"""Headers of answers, browsers and hosts (R164, R165, R180-R183)."""

from __future__ import annotations

import asyncio
import ipaddress

from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.checks.routes import BANNER, is_banner
from vllama_pool.router.compat.expect import Skipped, expect, lines, same
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import Connection, Place, Reply

HERE = "http://localhost:3000"
FOREIGN = "http://vllama-compat.example"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
TAKEN = ("authorization", "content-type", "user-agent", "accept", "x-requested-with", "openai-beta")
STAINLESS = ("x-stainless-lang", "x-stainless-os", "x-stainless-retry-count")


@covers(180)
async def no_headers_of_others(target: Target) -> None:
    is_banner(await target.get("/"))
    lines(await target.chat())
    for reply in (await target.get("/"), await target.get("/api/version"), await target.chat()):
        extra = [name for name, _ in reply.headers if name == "server" or name.startswith(("x-", "ratelimit"))]
        same("headers of its own", [], extra)


@covers(180)
async def connections_stay_open(target: Target) -> None:
    async with asyncio.timeout(10), Connection(target.place) as connection:
        for _ in range(2):
            is_banner(await connection.exchange("GET", "/", target.headers(), b""))


async def preflight(target: Target, origin: str, headers: str) -> Reply:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return await target.send("OPTIONS", "/api/chat", headers=asked)


def listed(reply: Reply, name: str) -> set[str]:
    return {part.strip().lower() for part in (reply.header(name) or "").split(",")} - {""}


@covers(181)
async def browsers_of_this_machine_may_ask(target: Target) -> None:
    reply = await preflight(target, HERE, "content-type")
    same("status", 204, reply.status)
    same("body", b"", reply.body)
    allowed = reply.header("access-control-allow-origin")
    expect(allowed in (HERE, "*"), f"Access-Control-Allow-Origin {HERE}", allowed)
    methods = listed(reply, "access-control-allow-methods")
    expect(methods >= {method.lower() for method in METHODS}, f"the methods {', '.join(METHODS)}", sorted(methods))
    same("Access-Control-Max-Age", "43200", reply.header("access-control-max-age") or "")
    headers = listed(reply, "access-control-allow-headers")
    expect(headers >= {*TAKEN, *STAINLESS}, f"the headers {', '.join(TAKEN)} and x-stainless-*", sorted(headers))
    expect(reply.header("access-control-allow-credentials") is None, "no credentials", "credentials")


def let_in(origin: str) -> Check:
    async def ask(target: Target) -> None:
        reply = await target.get("/", Origin=origin)
        is_banner(reply)
        allowed = reply.header("access-control-allow-origin")
        expect(allowed in (origin, "*"), f"Access-Control-Allow-Origin {origin}", allowed)
        if allowed != "*":
            expect("origin" in listed(reply, "vary"), "Vary: Origin", reply.header("vary"))

    return Check(frozenset({181}), f"the origin {origin}", ask)


ORIGINS = tuple(
    let_in(origin)
    for origin in (
        HERE,
        "http://localhost",
        "https://localhost",
        "https://127.0.0.1:8443",
        "http://0.0.0.0:8080",
        "app://obsidian.md",
        "file://x",
        "tauri://localhost",
        "vscode-webview://abc",
        "vscode-file://vscode-app",
    )
)


@covers(181)
async def its_own_origin_is_none(target: Target) -> None:
    scheme = "https" if target.place.tls else "http"
    is_banner(await target.get("/", Origin=f"{scheme}://{target.place.authority}"))


@covers(182)
async def headers_of_anthropic_are_not_for_browsers(target: Target) -> None:
    reply = await preflight(target, HERE, "x-api-key")
    same("status", 204, reply.status)
    headers = listed(reply, "access-control-allow-headers")
    expect("content-type" in headers, "Access-Control-Allow-Headers", sorted(headers))
    expect(not {"x-api-key", "anthropic-version"} & headers, "neither x-api-key nor anthropic-version", sorted(headers))


@covers(165)
async def foreign_origins_are_refused(target: Target) -> None:
    reply = await target.get("/", Origin=FOREIGN)
    if reply.status == 200 and reply.header("access-control-allow-origin") in (FOREIGN, "*"):
        raise Skipped("this server lets in every origin")
    same("status", 403, reply.status)
    same("body", b"", reply.body)


def is_loopback(place: Place) -> bool:
    try:
        return ipaddress.ip_address(place.host).is_loopback
    except ValueError:
        return place.host.lower() == "localhost"


@covers(164, 183)
async def foreign_hosts_are_refused(target: Target) -> None:
    if not is_loopback(target.place):
        raise Skipped("only where the server listens on this machine alone")
    reply = await target.get("/", Host="vllama-compat.example")
    if reply.status == 200 and reply.body == BANNER:
        raise Skipped("this server listens on every address, and takes every Host")
    same("status", 403, reply.status)
    same("body", b"", reply.body)


@covers(183)
async def names_of_this_machine_may_ask_for_options(target: Target) -> None:
    """Where hosts are guarded, OPTIONS for one by name ends there."""
    await foreign_hosts_are_refused.ask(target)
    reply = await target.send("OPTIONS", "/api/chat", headers={"Host": "localhost"})
    same("status", 204, reply.status)
    same("body", b"", reply.body)


@covers(183)
async def hosts_of_this_machine_are_let_in(target: Target) -> None:
    if not is_loopback(target.place):
        raise Skipped("only where the server listens on this machine alone")
    for host in ("localhost", "127.0.0.1", "[::1]:11434", "192.168.1.5", "a.localhost", "nas.local", "x.internal:80"):
        is_banner(await target.get("/", Host=host))

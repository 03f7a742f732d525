"""Response headers, CORS and Host checks."""

from __future__ import annotations

import asyncio
import ipaddress

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.routes import BANNER, is_banner
from vllama_pool.router.compat.expect import Skipped, expect, lines, same
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse, ServerUrl

LOCAL = "http://localhost:3000"
FOREIGN = "http://vllama-compat.example"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
ALLOWED_HEADERS = ("authorization", "content-type", "user-agent", "accept", "x-requested-with", "openai-beta")
STAINLESS_HEADERS = ("x-stainless-lang", "x-stainless-os", "x-stainless-retry-count")


@covers(180)
async def no_headers_that_ollama_does_not_send(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    lines(await server.chat())
    for response in (await server.get("/"), await server.get("/api/version"), await server.chat()):
        extra = [name for name, _ in response.headers if name == "server" or name.startswith(("x-", "ratelimit"))]
        same("headers of its own", [], extra)


@covers(180)
async def connections_stay_open(server: CheckedServer) -> None:
    async with asyncio.timeout(10), server.connection() as connection:
        for _ in range(2):
            is_banner(await connection.exchange("GET", "/", server.headers(), b""))


async def preflight(server: CheckedServer, origin: str, headers: str) -> RawResponse:
    request = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return await server.send("OPTIONS", "/api/chat", headers=request)


def header_values(response: RawResponse, name: str) -> set[str]:
    return {part.strip().lower() for part in (response.header(name) or "").split(",")} - {""}


@covers(181)
async def preflight_from_this_machine_is_allowed(server: CheckedServer) -> None:
    response = await preflight(server, LOCAL, "content-type")
    same("status", 204, response.status)
    same("body", b"", response.body)
    allowed = response.header("access-control-allow-origin")
    expect(allowed in (LOCAL, "*"), f"Access-Control-Allow-Origin {LOCAL}", allowed)
    methods = header_values(response, "access-control-allow-methods")
    expect(methods >= {method.lower() for method in METHODS}, f"the methods {', '.join(METHODS)}", sorted(methods))
    same("Access-Control-Max-Age", "43200", response.header("access-control-max-age") or "")
    headers = header_values(response, "access-control-allow-headers")
    expect(
        headers >= {*ALLOWED_HEADERS, *STAINLESS_HEADERS},
        f"the headers {', '.join(ALLOWED_HEADERS)} and x-stainless-*",
        sorted(headers),
    )
    expect(response.header("access-control-allow-credentials") is None, "no credentials", "credentials")


def is_allowed(origin: str) -> Check:
    async def run(server: CheckedServer) -> None:
        response = await server.get("/", Origin=origin)
        is_banner(response)
        allowed = response.header("access-control-allow-origin")
        expect(allowed in (origin, "*"), f"Access-Control-Allow-Origin {origin}", allowed)
        if allowed != "*":
            expect("origin" in header_values(response, "vary"), "Vary: Origin", response.header("vary"))

    return Check(frozenset({181}), f"the origin {origin}", run)


ORIGINS = tuple(
    is_allowed(origin)
    for origin in (
        LOCAL,
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
async def the_servers_own_origin_is_allowed(server: CheckedServer) -> None:
    scheme = "https" if server.url.tls else "http"
    is_banner(await server.get("/", Origin=f"{scheme}://{server.url.authority}"))


@covers(182)
async def preflight_does_not_allow_anthropics_headers(server: CheckedServer) -> None:
    response = await preflight(server, LOCAL, "x-api-key")
    same("status", 204, response.status)
    headers = header_values(response, "access-control-allow-headers")
    expect("content-type" in headers, "Access-Control-Allow-Headers", sorted(headers))
    expect(not {"x-api-key", "anthropic-version"} & headers, "neither x-api-key nor anthropic-version", sorted(headers))


@covers(165)
async def foreign_origins_are_refused(server: CheckedServer) -> None:
    response = await server.get("/", Origin=FOREIGN)
    if response.status == 200 and response.header("access-control-allow-origin") in (FOREIGN, "*"):
        raise Skipped("this server lets in every origin")
    same("status", 403, response.status)
    same("body", b"", response.body)


def is_loopback(place: ServerUrl) -> bool:
    try:
        return ipaddress.ip_address(place.host).is_loopback
    except ValueError:
        return place.host.lower() == "localhost"


@covers(164, 183)
async def foreign_hosts_are_refused(server: CheckedServer) -> None:
    if not is_loopback(server.url):
        raise Skipped("only where the server listens on this machine alone")
    response = await server.get("/", Host="vllama-compat.example")
    if response.status == 200 and response.body == BANNER:
        raise Skipped("this server listens on every address, and takes every Host")
    same("status", 403, response.status)
    same("body", b"", response.body)


@covers(183)
async def options_is_answered_for_localhost(server: CheckedServer) -> None:
    """Applies to servers that check Host."""
    await foreign_hosts_are_refused.run(server)
    response = await server.send("OPTIONS", "/api/chat", headers={"Host": "localhost"})
    same("status", 204, response.status)
    same("body", b"", response.body)


@covers(183)
async def hosts_of_this_machine_are_accepted(server: CheckedServer) -> None:
    if not is_loopback(server.url):
        raise Skipped("only where the server listens on this machine alone")
    for host in ("localhost", "127.0.0.1", "[::1]:11434", "192.168.1.5", "a.localhost", "nas.local", "x.internal:80"):
        is_banner(await server.get("/", Host=host))

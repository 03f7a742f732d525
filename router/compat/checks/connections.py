"""Request heads, framing and the life of connections, as Go's HTTP server handles them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from vllama_pool.router.compat.checks.catalogue import models
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.routes import expect_plain_error, is_banner
from vllama_pool.router.compat.expect import error, expect, field, json_object, lines, same
from vllama_pool.router.compat.server import ABSENT_MODEL, SHORT, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

LF, CRLF = "\n", "\r\n"
ABSENT = json.dumps({"model": ABSENT_MODEL}).encode()
LENGTH = f"Content-Length: {len(ABSENT)}"
FOREIGN_HOST = "vllama-compat.example"


def head(
    server: CheckedServer, method: str, path: str, *fields: str, version: str = "1.1", host: str = "", end: str = CRLF
) -> bytes:
    """A request's head. `path` may be an absolute URL."""
    target = path if "://" in path else server.url.prefix + path
    key = [f"Authorization: Bearer {server.key}"] if server.key else []
    start = [f"{method} {target} HTTP/{version}", f"Host: {host or server.url.authority}"]
    return end.join([*start, *key, *fields, "", ""]).encode()


async def answer(server: CheckedServer, data: bytes, method: str = "GET", *, until_closed: bool = False) -> RawResponse:
    (response,) = await server.send_bytes(data, (method,), until_closed=until_closed)
    return response


def is_absent(response: RawResponse) -> None:
    """Require the response of show to ABSENT."""
    error(response, 404, f"model '{ABSENT_MODEL}:latest' not found")


def is_version(response: RawResponse) -> None:
    field(json_object(response), "version", str)


async def show_absent(server: CheckedServer, *fields: str, body: bytes = ABSENT, end: str = CRLF) -> RawResponse:
    return await answer(server, head(server, "POST", "/api/show", *fields, end=end) + body, "POST")


@covers(202)
async def a_lone_lf_ends_a_line_of_a_head(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    key = f"Authorization: Bearer {server.key}\n" if server.key else ""
    is_banner(await answer(server, f"GET {server.url.prefix}/ HTTP/1.0\n{key}\n".encode()))
    is_version(await answer(server, head(server, "GET", "/api/version", end=LF)))
    is_absent(await show_absent(server, LENGTH, end=LF))
    mixed = head(server, "POST", "/api/show", "X-Compat: a\nX-More: b", LENGTH)
    is_absent(await answer(server, mixed + ABSENT, "POST"))


@covers(202)
async def folded_lines_of_a_head_are_joined(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    for fold in ("\r\n ", "\n\t"):
        is_version(await answer(server, head(server, "GET", "/api/version", f"X-Compat: a{fold}b")))


@covers(203)
async def chunk_sizes_end_with_crlf(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    for end, code in ((b"\r\n", 404), (b"\n", 400)):
        body = b"%x%b%b\r\n0\r\n\r\n" % (len(ABSENT), end, ABSENT)
        same("status", code, (await show_absent(server, "Transfer-Encoding: chunked", body=body)).status)


def ambiguous(name: str, *fields: str) -> Check:
    """A head that two servers could read in two ways. Go answers 501 to transfer codings that it does not know."""

    async def run(server: CheckedServer) -> None:
        is_absent(await show_absent(server, LENGTH))
        response = await show_absent(server, *fields)
        expect(response.status in (400, 501), "status 400 or 501", response.status)

    return Check(frozenset({204}), f"refuses {name}", run)


AMBIGUOUS = (
    ambiguous("two lengths", LENGTH, f"Content-Length: {len(ABSENT) - 1}"),
    ambiguous("a length with a sign", f"Content-Length: +{len(ABSENT)}"),
    ambiguous("an unknown transfer coding", "Transfer-Encoding: xchunked"),
    ambiguous("a transfer coding besides chunked", "Transfer-Encoding: chunked, identity"),
    ambiguous("a blank before a colon", "Content-Length : 1", LENGTH),
    ambiguous("two hosts", LENGTH, "Host: localhost"),
)


@covers(205)
async def an_invalid_request_is_a_400_and_closes(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    for data in (b"NONSENSE\r\n\r\n", b"GET nonsense HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"):
        response = await answer(server, data, until_closed=True)
        same("status", 400, response.status)
        kind = response.header("content-type") or ""
        expect(kind.startswith("text/plain"), "text/plain", kind)


@covers(206)
async def absolute_targets_are_served(server: CheckedServer) -> None:
    """Their host replaces the one of the Host header. Without a path, Go redirects to /."""
    origin = f"http://{server.url.authority}{server.url.prefix}"
    is_version(await answer(server, head(server, "GET", f"{origin}/api/version", host=FOREIGN_HOST)))
    response = await answer(server, head(server, "GET", origin))
    if not is_redirect(response, "/"):
        is_banner(response)


@covers(36, 206)
async def unknown_methods_are_a_405(server: CheckedServer) -> None:
    for method in ("VLLAMA", "PROPFIND", "get"):
        expect_plain_error(await server.send(method, "/api/tags"), 405, b"405 method not allowed")
        expect_plain_error(await server.send(method, "/vllama/compat"), 404, b"404 page not found")


def is_redirect(response: RawResponse, path: str) -> bool:
    location = (response.header("location") or "").partition("?")[0]
    return response.status in (301, 307, 308) and location.endswith(path)


@covers(207)
async def unclean_paths_lead_to_the_clean_path(server: CheckedServer) -> None:
    """Ollama redirects: with 301 before Go 1.26, with 307 since."""
    for path in ("//api/version", "/api//version", "/./api/version", "/vllama/../api/version", "/../api/version"):
        response = await server.get(path)
        if not is_redirect(response, "/api/version"):
            is_version(response)
    for path in ("//api/show", "/vllama/../api/./show"):
        response = await server.post(path, {"model": ABSENT_MODEL})
        if not is_redirect(response, "/api/show"):
            is_absent(response)


def is_unchunked(response: RawResponse) -> None:
    expect(response.chunks is None, "no Transfer-Encoding", dict(response.headers))


@covers(208)
async def http_1_0_clients_get_no_chunks(server: CheckedServer) -> None:
    response = await answer(server, head(server, "GET", "/api/tags", version="1.0"), until_closed=True)
    is_unchunked(response)
    models(response)
    body = json.dumps({"model": server.model("chat"), "prompt": "Say hello to me.", "options": SHORT}).encode()
    length = f"Content-Length: {len(body)}"
    data = head(server, "POST", "/api/generate", length, version="1.0") + body
    response = await answer(server, data, "POST", until_closed=True)
    is_unchunked(response)
    same("done on the last line", True, field(lines(response)[-1], "done", bool))


@covers(208)
async def http_1_0_clients_may_keep_the_connection(server: CheckedServer) -> None:
    is_banner(await server.get("/"))
    for response in await server.send_bytes(
        head(server, "GET", "/", "Connection: keep-alive", version="1.0") * 2, ("GET", "GET")
    ):
        is_banner(response)
        same("Connection", "keep-alive", (response.header("connection") or "").lower())


@covers(209)
async def idle_connections_stay_open(server: CheckedServer) -> None:
    async with asyncio.timeout(server.idle_seconds + 10), server.connection() as connection:
        is_banner(await connection.exchange("GET", "/", server.headers(), b""))
        await asyncio.sleep(server.idle_seconds)
        is_banner(await connection.exchange("GET", "/", server.headers(), b""))


@covers(210)
async def half_closed_clients_get_their_response(server: CheckedServer) -> None:
    for data, expected in await half_closed_requests(server):
        (response,) = await server.send_bytes(data, ("POST",), half_close=True)
        same("response", expected, json_object(response))


async def half_closed_requests(server: CheckedServer) -> list[tuple[bytes, dict[str, Any]]]:
    """Requests, and the responses to them on an open connection."""
    body = json.dumps({"model": server.model("chat")}).encode()
    show = head(server, "POST", "/api/show", f"Content-Length: {len(body)}") + body
    shown = json_object(await server.send("POST", "/api/show", body))
    listed = await server.get("/api/tags")
    models(listed)
    return [(show, shown), (head(server, "GET", "/api/tags"), json_object(listed))]


@covers(212)
async def pipelined_requests_are_answered_in_order(server: CheckedServer) -> None:
    show = head(server, "POST", "/api/show", LENGTH) + ABSENT
    data = head(server, "GET", "/api/version") + show + head(server, "GET", "/")
    version, shown, root = await server.send_bytes(data, ("GET", "POST", "GET"))
    is_version(version)
    is_absent(shown)
    is_banner(root)

"""Request bodies compressed with zstd, as Codex sends them.

Frames that no compressor writes are built from raw and repeated blocks (RFC 8878, 3.1.1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.v1_requests import CHAT, Route
from vllama_pool.router.compat.checks.v1_routes import ROUTES, for_each
from vllama_pool.router.compat.expect import expect, field, json_object, parsed, same
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

MAGIC = b"\x28\xb5\x2f\xfd"
MAX_BLOCK = 128 * 1024
GIGABYTE = 1024 * 1024 * 1024
"""Of a decompressed body. Ollama's limit is 20 MiB."""
RAW, REPEATED = 0, 1
ONE_MIB, SIXTEEN_MIB = 10, 14
"""Exponents of a window's size, above 1 KiB."""


def block(kind: int, size: int, content: bytes, *, last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


def frame(data: bytes, *, blanks: int = 0, window: int = ONE_MIB) -> bytes:
    """Compress `data`, with `blanks` blanks before it."""
    found = MAGIC + b"\0" + bytes([window << 3])
    for start in range(0, blanks, MAX_BLOCK):
        found += block(REPEATED, min(MAX_BLOCK, blanks - start), b" ")
    return found + block(RAW, len(data), data, last=True)


def request(server: CheckedServer, route: Route) -> bytes:
    return json.dumps({"model": server.model(route.use), **route.fields}).encode()


async def send(server: CheckedServer, path: str, body: bytes, coding: str = "zstd") -> RawResponse:
    return await server.send("POST", path, body, headers={"Content-Encoding": coding})


def compressed(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.compress(data))


async def _decompressed(server: CheckedServer, route: Route) -> None:
    body = request(server, route)
    padded = json.dumps({**json.loads(body), "no_such_key": "to be compressed " * 500}).encode()
    for data in (compressed(body), compressed(padded), frame(body), frame(body, blanks=2 * MAX_BLOCK)):
        found = json_object(await send(server, route.path, data))
        same("model", server.model(route.use), field(found, "model", str))


DECOMPRESSED = for_each("decompresses zstd", {178}, _decompressed, ROUTES)


def is_refused(response: RawResponse, *codes: int) -> None:
    """Ollama's error has the format of /api here."""
    expect(response.status in codes, f"status {' or '.join(map(str, codes))}", response.status)
    expect("error" in parsed(response.body), "an error", response.body)


def damaged(name: str, damage: Callable[[bytes], bytes]) -> tuple[Check, ...]:
    async def run(server: CheckedServer, route: Route) -> None:
        is_refused(await send(server, route.path, damage(frame(request(server, route)))), 400)

    return for_each(f"refuses zstd {name}", {178}, run, ROUTES)


DAMAGED = (
    *damaged("that is none", lambda _: b"xyz"),
    *damaged("that is cut off", lambda whole: whole[:-5]),
    *damaged("with a block of an unknown kind", lambda whole: whole[:6] + b"\xff\xff\xff" + whole[9:]),
)


async def _too_large(server: CheckedServer, route: Route) -> None:
    """Ollama answers 400. 413 is accepted too: it is clearer."""
    is_refused(await send(server, route.path, frame(request(server, route), blanks=GIGABYTE)), 400, 413)


TOO_LARGE = for_each("refuses zstd of a gigabyte", {178}, _too_large, ROUTES)


async def _large_window(server: CheckedServer, route: Route) -> None:
    is_refused(await send(server, route.path, frame(request(server, route), window=SIXTEEN_MIB)), 400, 413)


LARGE_WINDOW = for_each("refuses zstd with a window above 8 MiB", {178}, _large_window, ROUTES)


@covers(178)
async def zstd_is_not_decompressed_on_api(server: CheckedServer) -> None:
    """Ollama answers 400. 415 is accepted too: it is clearer."""
    body = json.dumps({"model": server.model("chat")}).encode()
    is_refused(await send(server, "/api/generate", frame(body)), 400, 415)


@covers(178)
async def gzip_is_not_decompressed_on_v1(server: CheckedServer) -> None:
    response = await send(server, CHAT.path, frame(request(server, CHAT)), "gzip")
    is_refused(response, 400, 415)

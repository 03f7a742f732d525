"""Checks that the inference routes of /v1 share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from vllama_pool.config import names
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.checks.errors import BAD, BOTH, INVALID, NOT_BOTH
from vllama_pool.router.compat.checks.naming import local
from vllama_pool.router.compat.checks.routes import cloud_is_off
from vllama_pool.router.compat.checks.v1_requests import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Route,
    ask,
    is_json,
    refused,
    whole,
)
from vllama_pool.router.compat.event_stream import events
from vllama_pool.router.compat.expect import Skipped, expect, field, json_object, same, status
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)
STREAMED = tuple(route for route in ROUTES if route.streams)
REQUEST_IDS = {"x-request-id"}
"""Not sent by Ollama, but by OpenAI, whose libraries show it in errors. Anthropic's is called request-id."""
CLOUDLESS = b"ollama cloud is disabled: remote model is unavailable"
FORM = "application/x-www-form-urlencoded"


def for_each(
    name: str, rules: set[int], check: Callable[[CheckedServer, Route], Awaitable[None]], routes: Iterable[Route]
) -> tuple[Check, ...]:

    def bound(route: Route) -> Check:
        async def run(server: CheckedServer) -> None:
            await check(server, route)

        return Check(frozenset({*rules, *route.rules}), f"{route.name} {name}", run)

    return tuple(bound(route) for route in routes)


async def _unstreamed(server: CheckedServer, route: Route) -> None:
    for fields in ({}, {"stream": None}, {"stream": False}):
        await whole(server, route, **fields)


UNSTREAMED = for_each("is not streamed by default", {43}, _unstreamed, STREAMED)


async def _streamed(server: CheckedServer, route: Route) -> None:
    response = await ask(server, route, stream=True)
    found = events(response)
    expect(len(found) > 2, "several events", response.body)
    expect(response.chunks is not None, "Transfer-Encoding: chunked", dict(response.headers))


STREAMS = for_each("streams events", set(), _streamed, STREAMED)


async def _vectors(server: CheckedServer, route: Route) -> None:
    await whole(server, route, stream=True)


NEVER_STREAMED = for_each("never streams", {43}, _vectors, [EMBEDDINGS])


async def _echoes(server: CheckedServer, route: Route) -> None:
    name = server.model(route.use)
    spellings = [name, name.swapcase()]
    if name.lower().endswith(":latest"):
        spellings.append(name.rpartition(":")[0])
    for spelling in spellings:
        found = json_object(await server.post(route.path, {**route.fields, "model": spelling}))
        same("model", spelling, field(found, "model", str))


ECHOES = for_each("names the model as requested", {45}, _echoes, ROUTES)


async def _empty_body(server: CheckedServer, route: Route) -> None:
    same("message", "EOF", refused(route, await server.send("POST", route.path, b""), 400))


EMPTY_BODY = for_each("refuses an empty body", {150}, _empty_body, ROUTES)


async def _no_json(server: CheckedServer, route: Route) -> None:
    """A 400 with any text. OpenAI's is not that of Go's parser."""
    for body in (b"xyz", b"{", b"[1]"):
        refused(route, await server.send("POST", route.path, body), 400)


NO_JSON = for_each("refuses what is not JSON", {151}, _no_json, ROUTES)


async def _mistyped(server: CheckedServer, route: Route) -> None:
    """A 400 with any text."""
    model = server.model(route.use)
    wrong = {"stream": "yes", "temperature": "hot"} if route.streams else {"encoding_format": 5}
    for key, value in wrong.items():
        refused(route, await server.post(route.path, {**route.fields, "model": model, key: value}), 400)


MISTYPED = for_each("refuses values of the wrong type", {152}, _mistyped, ROUTES)


async def _no_model(server: CheckedServer, route: Route) -> None:
    """Ollama's completions and embeddings answer 404, OpenAI's 400."""
    for fields in (route.fields, {**route.fields, "model": ""}):
        response = await server.post(route.path, dict(fields))
        refused(route, response, 404 if response.status == 404 and route in (COMPLETIONS, EMBEDDINGS) else 400, "model")


NO_MODEL = for_each("needs a model", {146}, _no_model, ROUTES)


async def _unknown_model(server: CheckedServer, route: Route) -> None:
    for fields in ({}, {"stream": True}):
        response = await server.post(route.path, {**route.fields, "model": ABSENT_MODEL, **fields})
        refused(route, response, 404, ABSENT_MODEL, "not found")


UNKNOWN_MODEL = for_each("reports an unknown model", {148}, _unknown_model, ROUTES)


async def _invalid_name(server: CheckedServer, route: Route) -> None:
    refused(route, await server.post(route.path, {**route.fields, "model": BAD}), 400, INVALID)


INVALID_NAME = for_each("refuses an invalid name", {147}, _invalid_name, ROUTES)


async def _both_places(server: CheckedServer, route: Route) -> None:
    refused(route, await server.post(route.path, {**route.fields, "model": BOTH}), 400, NOT_BOTH)


BOTH_PLACES = for_each("refuses a name with :local and :cloud", {149}, _both_places, ROUTES)


async def _cloud_model(server: CheckedServer, route: Route) -> None:
    """Ollama's error has the format of /api here."""
    if not await cloud_is_off(server):
        raise Skipped("the cloud is on")
    response = await server.post(route.path, {**route.fields, "model": "vllama-compat:cloud"})
    status(response, 403)
    is_json(response)
    expect(CLOUDLESS in response.body, CLOUDLESS.decode(), response.body)


CLOUD_MODELS = for_each("refuses cloud models without cloud", {38}, _cloud_model, ROUTES)


async def _spellings(server: CheckedServer, route: Route) -> None:
    try:
        name = names.parse(server.model(route.use))
    except names.InvalidName:
        raise Skipped(f"{server.model(route.use)} is not a valid name in Ollama") from None
    for spelled in (name.full, name.short.upper(), local(name)):
        found = json_object(await server.post(route.path, {**route.fields, "model": spelled}))
        same("model", spelled, field(found, "model", str))


SPELLINGS = for_each("finds a model by each of its names", {169, 171, 172}, _spellings, ROUTES)


async def _embedding_model(server: CheckedServer, route: Route) -> None:
    refused(route, await ask(server, route, use="embed"), 400, f'"{server.model("embed")}" does not support')


CANNOT_CHAT = for_each("refuses an embedding model", {157}, _embedding_model, (CHAT, RESPONSES, MESSAGES))
CANNOT_GENERATE = for_each("refuses an embedding model", {156}, _embedding_model, (COMPLETIONS,))


async def _ignores(server: CheckedServer, route: Route) -> None:
    await whole(server, route, no_such_key={"a": [1]}, user="u")
    body = {"model": server.model(route.use), **route.fields}
    json_object(await server.send("POST", route.path, body, headers={"Content-Type": FORM}))


IGNORES = for_each("ignores unknown keys and the type of the body", {39, 177}, _ignores, ROUTES)


def own_headers(response: RawResponse) -> list[str]:
    """Names of headers that neither Ollama nor OpenAI nor Anthropic sends."""
    names = {name for name, _ in response.headers} - REQUEST_IDS
    return sorted(name for name in names if name == "server" or name.startswith(("x-", "ratelimit")))


async def _headers(server: CheckedServer, route: Route) -> None:
    response = await ask(server, route)
    await whole(server, route)
    same("headers of its own", [], own_headers(response))
    if route.streams:
        stream = await ask(server, route, stream=True)
        events(stream)
        same("headers of its own", [], own_headers(stream))


HEADERS = for_each("sends no headers of its own", {180}, _headers, ROUTES)


async def _uncached(server: CheckedServer, route: Route) -> None:
    response = await ask(server, route, stream=True)
    events(response)
    given = response.header("cache-control") or ""
    expect("no-cache" in given, "Cache-Control: no-cache", given)


UNCACHED = for_each("forbids caching of streams", {180}, _uncached, (RESPONSES, MESSAGES))

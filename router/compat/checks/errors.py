"""Error status and text of each endpoint, and the order of errors."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.chat import HELLO
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import Differs, Skipped, error, expect, lines, same, status
from vllama_pool.router.compat.server import ABSENT_MODEL, SHORT, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

REQUIRED = "model is required"
INVALID = "invalid model name"
BAD = "a@b"
"""Invalid: names carry no digest."""
NO_BASE64 = "illegal base64 data at input byte"


def fails(rules: set[int], method: str, path: str, body: dict[str, Any], code: int, text: str) -> Check:

    async def run(server: CheckedServer) -> None:
        error(await server.send(method, path, body), code, text)

    return Check(frozenset(rules), f"{method} {path} {body}", run)


MISSING = (
    fails({49, 146}, "POST", "/api/generate", {"prompt": "x"}, 404, "model '' not found"),
    fails({146}, "POST", "/api/chat", {"messages": [HELLO]}, 400, REQUIRED),
    fails({146}, "POST", "/api/embed", {"input": "x"}, 404, "model '' not found"),
    fails({146}, "POST", "/api/embeddings", {"prompt": "x"}, 400, REQUIRED),
    fails({146}, "POST", "/api/show", {"verbose": False}, 400, REQUIRED),
    fails({106, 146}, "POST", "/api/pull", {"stream": False}, 400, INVALID),
    fails({146}, "POST", "/api/push", {"stream": False}, 400, REQUIRED),
    fails({146}, "DELETE", "/api/delete", {"model": ""}, 400, REQUIRED),
    fails({146}, "POST", "/api/copy", {"destination": ABSENT_MODEL}, 400, 'source "" is invalid'),
)
NO_NAME = (
    fails({147}, "POST", "/api/generate", {"model": BAD, "prompt": "x"}, 400, INVALID),
    fails({147}, "POST", "/api/chat", {"model": BAD, "messages": [HELLO]}, 400, INVALID),
    fails({147}, "POST", "/api/embed", {"model": BAD, "input": "x"}, 400, INVALID),
    fails({147}, "POST", "/api/embeddings", {"model": BAD, "prompt": "x"}, 400, INVALID),
    fails({147}, "POST", "/api/show", {"model": BAD}, 400, INVALID),
    fails({106, 147}, "POST", "/api/pull", {"model": BAD, "stream": False}, 400, INVALID),
    fails({147}, "DELETE", "/api/delete", {"model": BAD}, 400, f'name "{BAD}" is invalid'),
    fails({147}, "POST", "/api/copy", {"source": BAD, "destination": "x"}, 400, f'source "{BAD}" is invalid'),
    fails(
        {147}, "POST", "/api/copy", {"source": ABSENT_MODEL, "destination": BAD}, 400, f'destination "{BAD}" is invalid'
    ),
    fails({107, 147}, "POST", "/api/create", {"model": BAD, "from": ABSENT_MODEL}, 400, INVALID),
)
NOT_FOUND, PULL_IT = f"model '{ABSENT_MODEL}' not found", f'model "{ABSENT_MODEL}" not found, try pulling it first'
UNKNOWN = (
    fails({148}, "POST", "/api/generate", {"model": ABSENT_MODEL, "prompt": "x"}, 404, NOT_FOUND),
    fails({148}, "POST", "/api/generate", {"model": f"{ABSENT_MODEL}:7b"}, 404, f"model '{ABSENT_MODEL}:7b' not found"),
    fails({148}, "POST", "/api/chat", {"model": ABSENT_MODEL, "messages": [HELLO]}, 404, NOT_FOUND),
    fails({148}, "POST", "/api/embed", {"model": ABSENT_MODEL, "input": "x"}, 404, PULL_IT),
    fails({148}, "POST", "/api/embeddings", {"model": ABSENT_MODEL, "prompt": "x"}, 404, PULL_IT),
    fails({148}, "POST", "/api/show", {"model": ABSENT_MODEL}, 404, f"model '{ABSENT_MODEL}:latest' not found"),
    fails({148}, "DELETE", "/api/delete", {"model": ABSENT_MODEL}, 404, NOT_FOUND),
    fails(
        {148},
        "POST",
        "/api/copy",
        {"source": ABSENT_MODEL, "destination": "x"},
        404,
        f'model "{ABSENT_MODEL}" not found',
    ),
)
BOTH = "x:local:cloud"
NOT_BOTH = f'use either :local or :cloud, not both: "{BOTH}"'
CONFLICTING = tuple(
    fails({149}, method, f"/api/{endpoint}", {"model": BOTH, "input": "x"}, 400, NOT_BOTH)
    for method, endpoint in (
        ("POST", "generate"),
        ("POST", "chat"),
        ("POST", "embed"),
        ("POST", "embeddings"),
        ("POST", "show"),
        ("POST", "pull"),
        ("DELETE", "delete"),
    )
)
NOTHING_TO_MAKE_IT_OF = (
    fails({107}, "POST", "/api/create", {"from": ABSENT_MODEL}, 400, INVALID),
    fails({107}, "POST", "/api/create", {"model": ABSENT_MODEL}, 400, "neither 'from' or 'files' was specified"),
)


@covers(59, 154)
async def images_are_plain_base64(server: CheckedServer) -> None:
    response = await server.generate(images=["data:image/png;base64,iVBORw0KGgo="])
    error(response, 400, f"{NO_BASE64} 4")


@covers(75, 154)
async def images_of_messages_are_plain_base64(server: CheckedServer) -> None:
    for bad, place in (("data:image/png;base64,iVBORw0KGgo=", 4), ("iVBO!w0KGgo=", 4)):
        error(await server.chat(messages=[{**HELLO, "images": [bad]}]), 400, f"{NO_BASE64} {place}")


@covers(65, 155)
async def top_logprobs_are_at_most_20(server: CheckedServer) -> None:
    for number in (21, -1):
        for response in (
            await server.generate(logprobs=True, top_logprobs=number),
            await server.chat(logprobs=True, top_logprobs=number),
        ):
            error(response, 400, "top_logprobs must be between 0 and 20")


def cannot(rule: int, endpoint: str, fields: dict[str, Any]) -> Check:

    async def run(server: CheckedServer) -> None:
        model = server.model("embed")
        response = await server.post(f"/api/{endpoint}", {"model": model, "options": SHORT, **fields})
        error(response, 400, f'"{model}" does not support {endpoint}')

    return Check(frozenset({rule}), f"a model that cannot {endpoint}", run)


CANNOT = (cannot(156, "generate", {"prompt": "x"}), cannot(157, "chat", {"messages": [HELLO]}))


@covers(166)
async def a_missing_model_is_reported_before_an_invalid_option(server: CheckedServer) -> None:
    body = {"model": ABSENT_MODEL, "options": {"temperature": "x"}}
    error(await server.post("/api/generate", {**body, "prompt": "x"}), 404, NOT_FOUND)
    error(await server.post("/api/chat", {**body, "messages": [HELLO]}), 404, NOT_FOUND)


@covers(151, 166)
async def broken_json_is_reported_first(server: CheckedServer) -> None:
    response = await server.send("POST", "/api/chat", b'{"model": "a@b", "top_logprobs": 99, "messages": [}')
    status(response, 400)
    expect(b"invalid character '}'" in response.body, "invalid character '}'", response.body)


@covers(155, 166)
async def invalid_top_logprobs_are_reported_before_a_missing_model(server: CheckedServer) -> None:
    body = {"model": ABSENT_MODEL, "prompt": "x", "top_logprobs": 99}
    error(await server.post("/api/generate", body), 400, "top_logprobs must be between 0 and 20")


ABSENT_THERE = "pull model manifest: file does not exist"


def registry_answers(response: RawResponse) -> None:
    """Raises Skipped if the server cannot reach its registry."""
    if b"pull model manifest: Get" in response.body:
        raise Skipped("the server does not reach its registry")


@covers(47, 105)
async def pulling_an_unknown_model_fails_within_the_stream(server: CheckedServer) -> None:
    response = await server.post("/api/pull", {"model": ABSENT_MODEL})
    registry_answers(response)
    found = lines(response)
    same("first line", {"status": "pulling manifest"}, found[0])
    if len(found) == 1:
        raise Differs(f"expected a line with the error {ABSENT_THERE}; got the end")
    same("last line", {"error": ABSENT_THERE}, found[-1])


@covers(105)
async def pulling_an_unknown_model_without_streaming_is_a_500(server: CheckedServer) -> None:
    response = await server.post("/api/pull", {"name": ABSENT_MODEL, "stream": False})
    registry_answers(response)
    error(response, 500, ABSENT_THERE)

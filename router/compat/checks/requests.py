"""Parsing of request bodies and headers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import Skipped, error, expect, field, json_object, same, status
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

FORM = "application/x-www-form-urlencoded"


def loaded(response: RawResponse) -> dict[str, Any]:
    """Require the response to a load."""
    found = json_object(response)
    same("done_reason", "load", found.get("done_reason", ""))
    return found


async def show(server: CheckedServer, model: str) -> dict[str, Any]:
    return json_object(await server.post("/api/show", {"model": model}))


async def load(server: CheckedServer, body: bytes, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A load is the cheapest request that parses a body."""
    return loaded(await server.send("POST", "/api/generate", body, headers=headers))


def spelled(rules: set[int], name: str, body: str, headers: Mapping[str, str] | None = None) -> Check:
    """Parsed as a load of $MODEL."""

    async def run(server: CheckedServer) -> None:
        model = server.model("chat")
        found = await load(server, body.replace("$MODEL", json.dumps(model)).encode(), headers)
        same("model", model, found.get("model", ""))

    return Check(frozenset(rules), name, run)


LENIENT = (
    spelled(
        {39, 60}, "unknown keys and options", '{"model": $MODEL, "no_such_key": {"a": [1]}, "options": {"none": 1}}'
    ),
    spelled({39}, "keys in any case", '{"MODEL": "vllama-compat-absent", "Model": $MODEL, "pRoMpT": ""}'),
    spelled({39}, "what follows the first value", '{"model": $MODEL} {"model": "vllama-compat-absent"} and more'),
    spelled({39}, "the last of doubles", '{"model": "vllama-compat-absent", "model": $MODEL}'),
    spelled(
        {39}, "null is absent", '{"model": $MODEL, "prompt": null, "options": null, "stream": null, "images": null}'
    ),
    spelled({39, 177}, "a form's type", '{"model": $MODEL}', {"Content-Type": FORM}),
    spelled({177}, "plain text", '{"model": $MODEL}', {"Content-Type": "text/plain"}),
    spelled({177}, "Accept", '{"model": $MODEL}', {"Accept": "text/html"}),
    spelled({112}, "sizes of images", '{"model": $MODEL, "width": 512, "height": "512", "steps": []}'),
)


@covers(45)
async def answers_echo_the_name_as_requested(server: CheckedServer) -> None:
    name = server.model("chat")
    spellings = [name.swapcase()]
    if name.lower().endswith(":latest"):
        spellings.append(name.rpartition(":")[0])
    for spelling in spellings:
        for path in ("/api/generate", "/api/chat"):
            found = loaded(await server.post(path, {"model": spelling}))
            same("model", spelling, field(found, "model", str))


def refused(rules: set[int], name: str, path: str, body: bytes, text: str, method: str = "POST") -> Check:
    async def run(server: CheckedServer) -> None:
        error(await server.send(method, path, body), 400, text)

    return Check(frozenset(rules), name, run)


EMPTY = (
    *(
        refused({150}, f"an empty body to {endpoint}", f"/api/{endpoint}", b"", "missing request body")
        for endpoint in ("generate", "chat", "embed", "embeddings", "show", "pull", "push", "copy", "create")
    ),
    refused({150}, "an empty body to delete", "/api/delete", b"", "missing request body", "DELETE"),
    refused({150}, "a blank body", "/api/chat", b" \n", "missing request body"),
)
VALUE = "looking for beginning of value"
BROKEN = (
    refused({151}, "no JSON", "/api/chat", b"xyz", f"invalid character 'x' {VALUE}"),
    refused({151}, "JSON cut off", "/api/chat", b'{"model": "m', "unexpected EOF"),
    refused(
        {151},
        "a key without quotes",
        "/api/generate",
        b"{model: 1}",
        "invalid character 'm' looking for beginning of object key string",
    ),
)


def mistyped(rules: set[int], path: str, fields: Mapping[str, Any]) -> Check:
    """A 400 with any text."""

    async def run(server: CheckedServer) -> None:
        response = await server.post(path, {"model": server.model("chat"), **fields})
        status(response, 400)
        field(json_object(response, code=400), "error", str)

    return Check(frozenset({152, *rules}), f"{path} refuses {json.dumps(fields)}", run)


MESSAGE = {"role": "user", "content": "x"}
MISTYPED = (
    mistyped({43}, "/api/generate", {"stream": "yes"}),
    mistyped({62}, "/api/generate", {"truncate": "yes"}),
    mistyped({63}, "/api/generate", {"shift": "yes"}),
    mistyped(set(), "/api/generate", {"prompt": ["x"]}),
    mistyped(set(), "/api/generate", {"options": "x"}),
    mistyped({73}, "/api/chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    mistyped({74}, "/api/chat", {"messages": [{**MESSAGE, "thinking": 1}]}),
    mistyped({72}, "/api/chat", {"messages": [{"role": 1, "content": "x"}]}),
    mistyped(
        {76},
        "/api/chat",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
    ),
    mistyped({79}, "/api/chat", {"messages": [MESSAGE], "tools": {"type": "function"}}),
)


def unmarshalled(path: str, fields: Mapping[str, Any], kind: str, place: str) -> Check:
    """A 400 with Go's text."""

    async def run(server: CheckedServer) -> None:
        response = await server.post(path, {"model": server.model("chat"), **fields})
        error(response, 400, f"json: cannot unmarshal {kind} into Go struct field {place}")

    return Check(frozenset({152, 224}), f"Go's text for {place}", run)


UNMARSHALLED = (
    unmarshalled("/api/chat", {"stream": "yes"}, "string", "ChatRequest.stream of type bool"),
    unmarshalled("/api/generate", {"prompt": 5}, "number", "GenerateRequest.prompt of type string"),
    unmarshalled("/api/generate", {"context": "x"}, "string", "GenerateRequest.context of type []int"),
    unmarshalled("/api/embed", {"truncate": []}, "array", "EmbedRequest.truncate of type bool"),
    unmarshalled("/api/show", {"verbose": {}}, "object", "ShowRequest.verbose of type bool"),
)


@covers(178)
async def gzip_requests_are_not_decompressed(server: CheckedServer) -> None:
    """Ollama answers 400. 415 is accepted too: it is clearer, and no client sends gzip."""
    body = gzip.compress(json.dumps({"model": server.model("chat")}).encode())
    response = await server.send("POST", "/api/generate", body, headers={"Content-Encoding": "gzip"})
    expect(response.status in (400, 415), "status 400 or 415", response.status)
    field(json_object(response, code=response.status), "error", str)


@covers(178)
async def answers_are_not_compressed(server: CheckedServer) -> None:
    response = await server.get("/api/tags", Accept_Encoding="gzip, zstd, br, deflate")
    field(json_object(response), "models", list)
    same("Content-Encoding", "", response.header("content-encoding") or "")


@covers(179)
async def keys_and_signatures_are_ignored(server: CheckedServer) -> None:
    if server.key:
        raise Skipped("this server has keys")
    signed = await server.get("/api/tags?ts=1700000000", Authorization="Bearer whatever", X_Signature="c2lnbmVk")
    field(json_object(signed), "models", list)

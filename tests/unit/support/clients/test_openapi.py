"""The OpenAPI document of the router's tables."""

from typing import Any

import msgspec

from tests.support.clients.openapi import bodies, describe, schema
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES
from vllama_pool.router.protocol.ollama.gojson import go_type
from vllama_pool.router.protocol.table import operations

ROUTES = [
    ("/api/tags", ("GET", "HEAD")),
    ("/api/chat", ("POST",)),
    ("/api/blobs/{digest:str}", ("HEAD",)),
    ("/v1/models/{name:path}", ("GET",)),
]


def test_every_method_of_every_path_is_described() -> None:
    document = describe(ROUTES, {}, "1.2.3")
    assert document["info"]["version"] == "1.2.3"
    assert {path: sorted(item) for path, item in document["paths"].items()} == {
        "/api/tags": ["get", "head"],
        "/api/chat": ["post"],
        "/api/blobs/{digest}": ["head"],
        "/v1/models/{name}": ["get"],
    }
    (parameter,) = document["paths"]["/v1/models/{name}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("name", "path", True)


def test_request_bodies_have_the_types_of_the_tables() -> None:
    types = bodies(FIXED_ROUTES)
    ollama = {operation.path for operation in operations(SystemClock()) if operation.path.startswith("/api/")}
    assert ollama | {
        "/api/push",
        "/api/show",
        "/api/delete",
    } <= set(types)
    document = describe([("/api/chat", ("POST",)), ("/api/tags", ("GET",))], types, "1.2.3")
    body = document["paths"]["/api/chat"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages", "stream", "options", "think", "keep_alive"} <= set(body["properties"])
    assert {"temperature", "num_ctx", "stop"} <= set(body["properties"]["options"]["anyOf"][0]["properties"])
    assert "requestBody" not in document["paths"]["/api/tags"]["get"]


class X(msgspec.Struct):
    name: str
    on: bool
    size: int
    any: Any
    words: list[str]


def test_types_are_those_of_the_decoder_and_nullable() -> None:
    described = schema(go_type(X))
    assert described == {
        "type": ["object", "null"],
        "properties": {
            "name": {"type": ["string", "null"]},
            "on": {"type": ["boolean", "null"]},
            "size": {"type": ["integer", "null"]},
            "any": {},
            "words": {"type": ["array", "null"], "items": {"type": ["string", "null"]}},
        },
    }

"""Builds an OpenAPI document from the router's tables, for the fuzz tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vllama_pool.router.protocol.ollama import copying, create, embed, pull, requests, show
from vllama_pool.router.protocol.ollama.fixed_routes import FixedRoute
from vllama_pool.router.protocol.ollama.gojson import GoType
from vllama_pool.router.protocol.ollama.options import KNOWN

Schema = dict[str, Any]
Route = tuple[str, Iterable[str]]

_PARAMETER = re.compile(r"\{([a-z_]+):(?:str|path)\}")
_TYPES = {"string": "string", "bool": "boolean", "object": "object", "array": "array"}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": ["string", "object"]}},
}
_OPTIONS: Schema = {
    "type": "object",
    "properties": {name: {"type": ["number", "null"]} for name in sorted(KNOWN)}
    | {"stop": {"type": ["array", "null"], "items": {"type": "string"}}, "use_mmap": {"type": ["boolean", "null"]}},
}


_BODIES = {
    "/api/chat": requests.CHAT.type,
    "/api/generate": requests.GENERATE.type,
    "/api/embed": embed.EMBED.type,
    "/api/embeddings": embed.EMBEDDINGS.type,
    "/api/show": show.SHOW.type,
    "/api/pull": pull.PULL.type,
    "/api/create": create.CREATE.type,
    "/api/copy": copying.COPY.type,
    "/api/delete": copying.DELETE.type,
}


def bodies(fixed: Iterable[FixedRoute]) -> dict[str, GoType]:
    """Return the types of request bodies by path."""
    return _BODIES | {route.path: route.body for route in fixed if route.body is not None}


def describe(routes: Iterable[Route], body_types: Mapping[str, GoType], version: str) -> Schema:
    """Return the document. `routes` are paths with their methods; `body_types` are those of `bodies`."""
    paths: dict[str, Schema] = {}
    for path, methods in routes:
        item = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
        for method in methods:
            item[method.lower()] = _operation(path, method, body_types.get(path))
    return {"openapi": "3.1.0", "info": {"title": "vLLama", "version": version}, "paths": paths}


def _operation(path: str, method: str, body: GoType | None) -> Schema:
    operation: Schema = {
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{method} {path}".lower()).strip("_"),
        "responses": {
            "200": {"description": "the answer"},
            "default": {"description": "an error", "content": {"application/json": {"schema": _ERROR}}},
        },
    }
    names = [match[1] for match in _PARAMETER.finditer(path)]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if method in ("POST", "DELETE", "PUT") and body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema(body)}}}
    return operation


def schema(go: GoType, name: str = "") -> Schema:
    """Translate a body's type. Null is allowed everywhere, and means absent (R039)."""
    if name == "options":
        return {"anyOf": [_OPTIONS, {"type": "null"}]}
    if not go.kind:
        return {}
    kind = "integer" if go.name == "int" else _TYPES[go.kind]
    result: Schema = {"type": [kind, "null"]}
    if go.item is not None:
        result["items"] = schema(go.item)
    if go.fields:
        result["properties"] = {key: schema(field, key) for key, field in go.fields.items()}
    return result

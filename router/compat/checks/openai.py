"""Model lists in OpenAI's format."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from vllama_pool.router.compat.checks.catalogue import moment, tags
from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.expect import JSON, content_type, expect, field, json_object, same
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer


def is_entry(item: Any) -> None:
    expect(isinstance(item, dict), "an object for each model", item)
    same("keys", ["created", "id", "object", "owned_by"], sorted(item))
    same("object", "model", field(item, "object", str))
    field(item, "id", str)
    field(item, "created", int)
    field(item, "owned_by", str)


async def entries(server: CheckedServer) -> dict[str, dict[str, Any]]:
    response = await server.get("/v1/models")
    found = json_object(response)
    content_type(response, JSON)
    same("object", "list", field(found, "object", str))
    data = field(found, "data", list)
    for item in data:
        is_entry(item)
    return {item["id"]: item for item in data}


@covers(30)
async def openai_lists_the_same_models(server: CheckedServer) -> None:
    here = {field(item, "name", str) for item in await tags(server)}
    missing = sorted(here - set(await entries(server)))
    expect(not missing, "every model of /api/tags", f"none of {', '.join(missing)}")


@covers(117)
async def openai_models_have_creation_time_and_owner(server: CheckedServer) -> None:
    listed = await entries(server)
    for item in await tags(server):
        name = field(item, "name", str)
        found = listed.get(name, {})
        same("created", int(moment(field(item, "modified_at", str)).timestamp()), found.get("created"))
        if "/" not in name:
            same("owned_by", "library", found.get("owned_by"))


@covers(31, 117)
async def openai_returns_one_model_under_the_requested_name(server: CheckedServer) -> None:
    name = server.model("chat")
    if "/" in name:  # Ollama's route accepts names of one path segment only
        found = (await entries(server))[name]
    else:
        found = json_object(await server.get(f"/v1/models/{quote(name.swapcase())}"))
        same("id", name.swapcase(), field(found, "id", str))
    is_entry(found)


@covers(31)
async def openai_reports_an_unknown_model_in_its_own_format(server: CheckedServer) -> None:
    found = json_object(await server.get(f"/v1/models/{ABSENT_MODEL}"), code=404)
    text = f"model '{ABSENT_MODEL}:latest' not found"
    same("response", {"error": {"message": text, "type": "not_found_error", "param": None, "code": None}}, found)

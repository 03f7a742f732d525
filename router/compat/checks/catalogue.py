"""Model lists and descriptions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from vllama_pool.config import names
from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import (
    JSON,
    Differs,
    Skipped,
    content_type,
    expect,
    field,
    json_object,
    lacks,
    same,
    timestamp,
)
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
PARAMETERS = re.compile(r"\d+(\.\d+)?[KMBT]?\Z")
CAPABILITIES = {"completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio"}
TEXTS = ("format", "family", "parameter_size", "quantization_level")
MAX_LIST = 5
"""List length in show without verbose (R109)."""


async def tags(server: CheckedServer) -> list[dict[str, Any]]:
    """Raises Skipped if there are no local models."""
    found = [item for item in models(await server.get("/api/tags")) if not item.get("remote_host")]
    if not found:
        raise Skipped("no models")
    return found


def models(response: RawResponse) -> list[dict[str, Any]]:
    found = field(json_object(response), "models", list)
    for item in found:
        expect(isinstance(item, dict), "an object for each model", item)
    return found


async def tagged(server: CheckedServer, model: str) -> dict[str, Any]:
    """Entry in /api/tags."""
    return entry(await tags(server), model)


async def running(server: CheckedServer, model: str) -> dict[str, Any]:
    """Entry in /api/ps."""
    return entry(models(await server.get("/api/ps")), model)


def entry(listed: list[dict[str, Any]], model: str) -> dict[str, Any]:
    key = names.lookup_key(model)
    for item in listed:
        if names.lookup_key(field(item, "name", str)) == key:
            return item
    raise Differs(f"expected {model} in the list; got {', '.join(item['name'] for item in listed) or 'no models'}")


async def description(server: CheckedServer, **fields: Any) -> dict[str, Any]:
    """Cached response of show, by default for the chat model."""
    return json_object(await server.post_cached("/api/show", fields or {"model": server.model("chat")}))


def moment(text: str) -> datetime:
    timestamp(text)
    return datetime.fromisoformat(text)


def has_details(item: dict[str, Any]) -> None:
    details = field(item, "details", dict)
    for key in TEXTS:
        expect(field(details, key, str, "details."), f"details.{key}", details)
    field(details, "parent_model", str, "details.")
    families = details.get("families", "absent")
    expect(families is None or isinstance(families, list), "details.families as a list or null", families)


@covers(9, 41)
async def tags_have_the_fields_that_clients_read(server: CheckedServer) -> None:
    response = await server.get("/api/tags")
    content_type(response, JSON)
    for item in await tags(server):
        timestamp(field(item, "modified_at", str))
        has_details(item)
        lacks(item, "expires_at", "size_vram")


@covers(9)
async def tags_are_sorted_newest_first(server: CheckedServer) -> None:
    times = [moment(field(item, "modified_at", str)) for item in models(await server.get("/api/tags"))]
    if not times:
        raise Skipped("no models")
    expect(times == sorted(times, reverse=True), "the newest first", [str(time) for time in times])


@covers(22)
async def ps_is_sorted_longest_lifetime_first(server: CheckedServer) -> None:
    loaded(await server.post("/api/generate", {"model": server.model("chat")}))
    times = [moment(field(item, "expires_at", str)) for item in models(await server.get("/api/ps"))]
    expect(times and times == sorted(times, reverse=True), "the longest-lived first", [str(time) for time in times])


@covers(173)
async def lists_have_names_with_tags(server: CheckedServer) -> None:
    for item in await tags(server):
        name = field(item, "name", str)
        try:
            same("name", names.parse(name).short, name)
        except names.InvalidName:
            raise Differs(f"expected a name of Ollama's grammar; got {name}") from None


@covers(174)
async def model_is_name_and_digests_are_hex(server: CheckedServer) -> None:
    for item in await tags(server):
        same("model", field(item, "name", str), field(item, "model", str))
        digest = field(item, "digest", str)
        expect(DIGEST.match(digest), "64 hex digits", digest)


@covers(175)
async def sizes(server: CheckedServer) -> None:
    for item in await tags(server):
        expect(field(item, "size", int) > 0, "a size above 0", item["size"])
        parameters = field(field(item, "details", dict), "parameter_size", str)
        expect(PARAMETERS.match(parameters), "parameters like 494.03M", parameters)


@covers(176)
async def capabilities_are_known_to_ollama(server: CheckedServer) -> None:
    for item in await tags(server):
        found = field(item, "capabilities", list)
        expect(found and set(found) <= CAPABILITIES, "capabilities that Ollama has", found)
        expect(not {"embedding", "completion"} <= set(found), "embedding or completion, not both", found)
        described = await description(server, model=field(item, "model", str))
        same("capabilities in show", sorted(found), sorted(field(described, "capabilities", list)))


@covers(22, 41, 174, 175)
async def ps_lists_loaded_models(server: CheckedServer) -> None:
    model = server.model("chat")
    loaded(await server.post("/api/generate", {"model": model}))
    content_type(await server.get("/api/ps"), JSON)
    item = await running(server, model)
    same("model", field(item, "name", str), field(item, "model", str))
    timestamp(field(item, "expires_at", str))
    has_details(item)
    expect(DIGEST.match(field(item, "digest", str)), "64 hex digits", item["digest"])
    size, on_gpu = field(item, "size", int), field(item, "size_vram", int)
    expect(size > 0 and 0 <= on_gpu <= size, "size_vram between 0 and size", [on_gpu, size])
    expect(field(item, "context_length", int) > 0, "context_length above 0", item["context_length"])
    lacks(item, "modified_at", "capabilities")


@covers(22, 174)
async def ps_and_tags_agree(server: CheckedServer) -> None:
    model = server.model("chat")
    loaded(await server.post("/api/generate", {"model": model}))
    in_ps, in_tags = await running(server, model), await tagged(server, model)
    for key in ("name", "digest"):
        same(f"{key} in ps", field(in_tags, key, str), field(in_ps, key, str))


@covers(10)
async def show_has_the_fields_that_clients_read(server: CheckedServer) -> None:
    found = await description(server)
    has_details(found)
    timestamp(field(found, "modified_at", str))
    field(found, "model_info", dict)
    for text in {"template", "license", "modelfile", "parameters", "system"} & set(found):
        field(found, text, str)
    capabilities = field(found, "capabilities", list)
    expect(all(isinstance(each, str) for each in capabilities), "capabilities as texts", capabilities)
    lacks(found, "remote_host", "remote_model")


@covers(10)
async def show_accepts_the_older_name_field(server: CheckedServer) -> None:
    """The ollama command sends `name` and an empty `model`."""
    fields = {"model": "", "name": server.model("chat"), "system": "", "template": "", "options": None}
    has_details(await description(server, **fields))
    same("answer", await description(server), await description(server, **fields))


@covers(109)
async def show_omits_long_lists(server: CheckedServer) -> None:
    info = field(await description(server), "model_info", dict)
    expect(info, "something in model_info", info)
    lacks(info, "general.name", "tokenizer.chat_template")
    for key, value in info.items():
        expect(not isinstance(value, list) or len(value) <= MAX_LIST, f"{key} as []", value)


@covers(110)
async def show_returns_the_requested_name_to_copilot(server: CheckedServer) -> None:
    model = server.model("chat")
    headers = {"User-Agent": "GitHubCopilotChat/0.30.0"}
    found = json_object(await server.send("POST", "/api/show", {"model": model}, headers=headers))
    same("general.basename", model, field(field(found, "model_info", dict), "general.basename", str))


@covers(111)
async def model_info_has_the_keys_that_clients_read(server: CheckedServer) -> None:
    info = field(await description(server), "model_info", dict)
    architecture = field(info, "general.architecture", str)
    for key in (f"{architecture}.context_length", f"{architecture}.embedding_length", "general.parameter_count"):
        expect(field(info, key, int) > 0, f"{key} above 0", info[key])


@covers(112)
async def no_model_generates_images(server: CheckedServer) -> None:
    for item in await tags(server):
        expect("image" not in item.get("capabilities", ()), "no capability image", item.get("capabilities"))

"""What lists and descriptions of models hold (R009, R010, R022, R109-R111, R173-R176)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from vllama_pool.config import names
from vllama_pool.router.compat.check import covers
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import (
    JSON,
    Differs,
    Skipped,
    a_time,
    an_object,
    content_type,
    expect,
    lacks,
    same,
    take,
)
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import Reply

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
PARAMETERS = re.compile(r"\d+(\.\d+)?[KMBT]?\Z")
CAPABILITIES = {"completion", "tools", "insert", "vision", "embedding", "thinking", "image", "audio"}
TEXTS = ("format", "family", "parameter_size", "quantization_level")
MOST_LISTED = 5
"""Entries of a list that show gives unless asked for more (R109)."""


async def tags(target: Target) -> list[dict[str, Any]]:
    """The models of /api/tags that are here and not in the cloud, at least one. Raises Skipped."""
    found = [item for item in models(await target.get("/api/tags")) if not item.get("remote_host")]
    if not found:
        raise Skipped("no models")
    return found


def models(reply: Reply) -> list[dict[str, Any]]:
    found = take(an_object(reply), "models", list)
    for item in found:
        expect(isinstance(item, dict), "an object for each model", item)
    return found


async def tagged(target: Target, model: str) -> dict[str, Any]:
    """The entry of a model in /api/tags."""
    return entry(await tags(target), model)


async def running(target: Target, model: str) -> dict[str, Any]:
    """The entry in /api/ps of a model."""
    return entry(models(await target.get("/api/ps")), model)


def entry(listed: list[dict[str, Any]], model: str) -> dict[str, Any]:
    wanted = names.lookup_key(model)
    for item in listed:
        if names.lookup_key(take(item, "name", str)) == wanted:
            return item
    raise Differs(f"expected {model} in the list; got {', '.join(item['name'] for item in listed) or 'no models'}")


async def shown(target: Target, **fields: Any) -> dict[str, Any]:
    """What show says of the chat model, asked with these fields."""
    asked = fields or {"model": target.model("chat")}
    return an_object(await target.once("/api/show", asked))


def moment(text: str) -> datetime:
    a_time(text)
    return datetime.fromisoformat(text)


def has_details(item: dict[str, Any]) -> None:
    details = take(item, "details", dict)
    for key in TEXTS:
        expect(take(details, key, str, "details."), f"details.{key}", details)
    take(details, "parent_model", str, "details.")
    families = details.get("families", "absent")
    expect(families is None or isinstance(families, list), "details.families as a list or null", families)


@covers(9, 41)
async def tags_have_what_clients_read(target: Target) -> None:
    reply = await target.get("/api/tags")
    content_type(reply, JSON)
    for item in await tags(target):
        a_time(take(item, "modified_at", str))
        has_details(item)
        lacks(item, "expires_at", "size_vram")


@covers(9)
async def the_newest_come_first(target: Target) -> None:
    times = [moment(take(item, "modified_at", str)) for item in models(await target.get("/api/tags"))]
    if not times:
        raise Skipped("no models")
    expect(times == sorted(times, reverse=True), "the newest first", [str(time) for time in times])


@covers(22)
async def the_longest_lived_come_first(target: Target) -> None:
    loaded(await target.post("/api/generate", {"model": target.model("chat")}))
    times = [moment(take(item, "expires_at", str)) for item in models(await target.get("/api/ps"))]
    expect(times and times == sorted(times, reverse=True), "the longest-lived first", [str(time) for time in times])


@covers(173)
async def lists_have_names_with_tags(target: Target) -> None:
    for item in await tags(target):
        name = take(item, "name", str)
        try:
            same("name", names.parse(name).short, name)
        except names.InvalidName:
            raise Differs(f"expected a name of Ollama's grammar; got {name}") from None


@covers(174)
async def names_and_digests(target: Target) -> None:
    for item in await tags(target):
        same("model", take(item, "name", str), take(item, "model", str))
        digest = take(item, "digest", str)
        expect(DIGEST.match(digest), "64 hex digits", digest)


@covers(175)
async def sizes(target: Target) -> None:
    for item in await tags(target):
        expect(take(item, "size", int) > 0, "a size above 0", item["size"])
        parameters = take(take(item, "details", dict), "parameter_size", str)
        expect(PARAMETERS.match(parameters), "parameters like 494.03M", parameters)


@covers(176)
async def capabilities_are_of_the_set(target: Target) -> None:
    for item in await tags(target):
        found = take(item, "capabilities", list)
        expect(found and set(found) <= CAPABILITIES, "capabilities that Ollama has", found)
        expect(not {"embedding", "completion"} <= set(found), "embedding or completion, not both", found)
        described = an_object(await target.once("/api/show", {"model": take(item, "model", str)}))
        same("capabilities in show", sorted(found), sorted(take(described, "capabilities", list)))


@covers(22, 41, 174, 175)
async def ps_lists_what_is_loaded(target: Target) -> None:
    model = target.model("chat")
    loaded(await target.post("/api/generate", {"model": model}))
    content_type(await target.get("/api/ps"), JSON)
    item = await running(target, model)
    same("model", take(item, "name", str), take(item, "model", str))
    a_time(take(item, "expires_at", str))
    has_details(item)
    expect(DIGEST.match(take(item, "digest", str)), "64 hex digits", item["digest"])
    size, on_gpu = take(item, "size", int), take(item, "size_vram", int)
    expect(size > 0 and 0 <= on_gpu <= size, "size_vram between 0 and size", [on_gpu, size])
    expect(take(item, "context_length", int) > 0, "context_length above 0", item["context_length"])
    lacks(item, "modified_at", "capabilities")


@covers(22, 174)
async def ps_and_tags_agree(target: Target) -> None:
    model = target.model("chat")
    loaded(await target.post("/api/generate", {"model": model}))
    there, listed = await running(target, model), await tagged(target, model)
    for key in ("name", "digest"):
        same(f"{key} in ps", take(listed, key, str), take(there, key, str))


@covers(10)
async def show_has_what_clients_read(target: Target) -> None:
    found = await shown(target)
    has_details(found)
    a_time(take(found, "modified_at", str))
    take(found, "model_info", dict)
    for text in {"template", "license", "modelfile", "parameters", "system"} & set(found):
        take(found, text, str)
    capabilities = take(found, "capabilities", list)
    expect(all(isinstance(each, str) for each in capabilities), "capabilities as texts", capabilities)
    lacks(found, "remote_host", "remote_model")


@covers(10)
async def show_takes_the_older_name(target: Target) -> None:
    """As the ollama command and others ask."""
    asked = {"model": "", "name": target.model("chat"), "system": "", "template": "", "options": None}
    has_details(await shown(target, **asked))
    same("answer", await shown(target), await shown(target, **asked))


@covers(109)
async def show_leaves_out_what_is_long(target: Target) -> None:
    info = take(await shown(target), "model_info", dict)
    expect(info, "something in model_info", info)
    lacks(info, "general.name", "tokenizer.chat_template")
    for key, value in info.items():
        expect(not isinstance(value, list) or len(value) <= MOST_LISTED, f"{key} as []", value)


@covers(110)
async def copilot_is_told_the_name_that_it_asked_for(target: Target) -> None:
    model = target.model("chat")
    headers = {"User-Agent": "GitHubCopilotChat/0.30.0"}
    found = an_object(await target.send("POST", "/api/show", {"model": model}, headers=headers))
    same("general.basename", model, take(take(found, "model_info", dict), "general.basename", str))


@covers(111)
async def model_info_has_the_keys_that_clients_read(target: Target) -> None:
    info = take(await shown(target), "model_info", dict)
    architecture = take(info, "general.architecture", str)
    for key in (f"{architecture}.context_length", f"{architecture}.embedding_length", "general.parameter_count"):
        expect(take(info, key, int) > 0, f"{key} above 0", info[key])


@covers(112)
async def no_model_makes_images(target: Target) -> None:
    for item in await tags(target):
        expect("image" not in item.get("capabilities", ()), "no capability image", item.get("capabilities"))

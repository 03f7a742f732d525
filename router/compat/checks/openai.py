"""Models as OpenAI lists them: what there is of /v1 (R030, R031, R117)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from vllama_pool.router.compat.check import covers
from vllama_pool.router.compat.checks.catalogue import moment, tags
from vllama_pool.router.compat.expect import JSON, an_object, content_type, expect, same, take
from vllama_pool.router.compat.target import ABSENT, Target


def is_entry(item: Any) -> None:
    expect(isinstance(item, dict), "an object for each model", item)
    same("keys", ["created", "id", "object", "owned_by"], sorted(item))
    same("object", "model", take(item, "object", str))
    take(item, "id", str)
    take(item, "created", int)
    take(item, "owned_by", str)


async def entries(target: Target) -> dict[str, dict[str, Any]]:
    """What /v1/models lists, by name."""
    reply = await target.get("/v1/models")
    found = an_object(reply)
    content_type(reply, JSON)
    same("object", "list", take(found, "object", str))
    data = take(found, "data", list)
    for item in data:
        is_entry(item)
    return {item["id"]: item for item in data}


@covers(30)
async def openai_lists_the_same_models(target: Target) -> None:
    here = {take(item, "name", str) for item in await tags(target)}
    missing = sorted(here - set(await entries(target)))
    expect(not missing, "every model of /api/tags", f"none of {', '.join(missing)}")


@covers(117)
async def openai_is_told_when_models_were_made_and_whose_they_are(target: Target) -> None:
    listed = await entries(target)
    for item in await tags(target):
        name = take(item, "name", str)
        found = listed.get(name, {})
        same("created", int(moment(take(item, "modified_at", str)).timestamp()), found.get("created"))
        if "/" not in name:
            same("owned_by", "library", found.get("owned_by"))


@covers(31, 117)
async def openai_is_shown_one_model_by_the_name_that_it_asked_for(target: Target) -> None:
    name = target.model("chat")
    if "/" in name:  # in Ollama's route a name has no more parts than one
        found = (await entries(target))[name]
    else:
        found = an_object(await target.get(f"/v1/models/{quote(name.swapcase())}"))
        same("id", name.swapcase(), take(found, "id", str))
    is_entry(found)


@covers(31)
async def openai_is_told_of_no_model_in_its_own_words(target: Target) -> None:
    found = an_object(await target.get(f"/v1/models/{ABSENT}"), wanted=404)
    text = f"model '{ABSENT}:latest' not found"
    same("reply", {"error": {"message": text, "type": "not_found_error", "param": None, "code": None}}, found)

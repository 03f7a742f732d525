"""Making, copying, pulling and deleting models (R006, R011, R015, R018, R085, R103, R104, R107, R108)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vllama_pool.router.compat.check import covers
from vllama_pool.router.compat.checks.catalogue import tagged, tags
from vllama_pool.router.compat.checks.errors import registry_answers
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import Differs, an_object, error, expect, lines, same, status, take
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import Reply

SYSTEM = "Answer as a pirate of vllama-compat."
PARAMETERS = {"temperature": 0.25, "stop": ["vllama-a", "vllama-b"]}
MESSAGES = [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Ahoy!"}]


def fresh() -> str:
    """The name of a model that is made here and deleted again."""
    return f"vllama-compat-{secrets.token_hex(4)}"


def made(reply: Reply) -> None:
    """The lines of a create that went well."""
    found = lines(reply)
    for line in found:
        take(line, "status", str)
    same("last line", {"status": "success"}, found[-1])
    expect({"status": "writing manifest"} in found, "writing manifest", found)


async def deleted(target: Target, name: str) -> None:
    reply = await target.send("DELETE", "/api/delete", {"model": name})
    status(reply, 200)
    same("body", b"", reply.body)


@asynccontextmanager
async def pirate(target: Target) -> AsyncIterator[str]:
    """A model with a system text, parameters and messages, for as long as it is needed."""
    name = fresh()
    fields = {"system": SYSTEM, "parameters": PARAMETERS, "messages": MESSAGES}
    made(await target.post("/api/create", {"model": name, "from": target.model("chat"), **fields}))
    try:
        yield name
    finally:
        await target.send("DELETE", "/api/delete", {"model": name})


async def described(target: Target, name: str) -> dict[str, Any]:
    return an_object(await target.post("/api/show", {"model": name}))


@covers(15, 107, 108, writes=True)
async def models_are_made_of_others(target: Target) -> None:
    async with pirate(target) as name:
        found = await described(target, name)
        same("system", SYSTEM, take(found, "system", str))
        same("messages", MESSAGES, take(found, "messages", list))
        said = [line.split(maxsplit=1) for line in take(found, "parameters", str).splitlines()]
        for wanted in (["temperature", "0.25"], ["stop", '"vllama-a"'], ["stop", '"vllama-b"']):
            expect(wanted in said, " ".join(wanted), found["parameters"])
        expect(SYSTEM in take(found, "modelfile", str), "the system text in the modelfile", found["modelfile"])
        same("name", f"{name}:latest", take(await tagged(target, name), "name", str))


@covers(15, writes=True)
async def what_was_made_answers(target: Target) -> None:
    async with pirate(target) as name:
        loaded(await target.post("/api/generate", {"model": name}))
        body = {"model": name, "prompt": "Ahoy!", "stream": False, "options": {"num_predict": 4}}
        same("model", name, take(an_object(await target.post("/api/generate", body)), "model", str))


@covers(15, 107, writes=True)
async def making_may_be_waited_for(target: Target) -> None:
    name = fresh()
    body = {"model": name, "from": target.model("chat"), "system": SYSTEM, "stream": False}
    same("reply", {"status": "success"}, an_object(await target.post("/api/create", body)))
    await deleted(target, name)


@covers(85, writes=True)
async def the_system_text_of_a_model_gives_way_to_a_message(target: Target) -> None:
    async with pirate(target) as name:
        ask = {"role": "user", "content": "Who are you?"}
        own = {"role": "system", "content": "Answer as a monk."}
        expect(SYSTEM in await rendered(target, name, [ask]), "the model's system text in the prompt", "none")
        found = await rendered(target, name, [own, ask])
        expect(SYSTEM not in found and "monk" in found, "the message's system text alone", found)


async def rendered(target: Target, name: str, messages: list[dict[str, str]]) -> str:
    body = {"model": name, "messages": messages, "_debug_render_only": True}
    found = take(an_object(await target.post("/api/chat", body)), "_debug_info", dict)
    return take(found, "rendered_template", str)


@covers(18, writes=True)
async def models_are_copied(target: Target) -> None:
    source = target.model("chat")
    name = fresh()
    reply = await target.post("/api/copy", {"source": source, "destination": name})
    status(reply, 200)
    same("body", b"", reply.body)
    try:
        loaded(await target.post("/api/generate", {"model": name}))
        await tagged(target, name)
    finally:
        await deleted(target, name)


@covers(11, writes=True)
async def what_was_made_is_deleted(target: Target) -> None:
    async with pirate(target) as name:
        await deleted(target, name)
        if any(item.get("name") == f"{name}:latest" for item in await tags(target)):
            raise Differs(f"expected {name} to be gone; it is still listed")
        error(await target.post("/api/generate", {"model": name}), 404, f"model '{name}' not found")
        error(await target.send("DELETE", "/api/delete", {"name": name}), 404, f"model '{name}' not found")


@covers(6, 103, writes=True)
async def models_that_are_there_are_pulled(target: Target) -> None:
    reply = await target.post("/api/pull", {"model": target.model("chat")})
    registry_answers(reply)
    found = lines(reply)
    steps = [take(line, "status", str) for line in found]
    same("first status", "pulling manifest", steps[0])
    same("last line", {"status": "success"}, found[-1])
    for step in ("verifying sha256 digest", "writing manifest"):
        expect(step in steps, step, steps)
    for line in found:
        if "digest" in line:
            expect(take(line, "digest", str).startswith("sha256:"), "a digest with sha256:", line)
            expect(line["status"].startswith("pulling "), "pulling and the digest's first digits", line)
            expect(type(line.get("total", 0)) is int, "total as an integer", line)


@covers(104, writes=True)
async def a_pull_may_be_waited_for(target: Target) -> None:
    body = {"name": target.model("chat"), "stream": False}
    reply = await target.post("/api/pull", body)
    registry_answers(reply)
    same("reply", {"status": "success"}, an_object(reply))

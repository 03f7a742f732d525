"""Creating, copying, pulling and deleting models."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vllama_pool.router.compat.checks.catalogue import tagged, tags
from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.checks.connections import head
from vllama_pool.router.compat.checks.errors import registry_answers
from vllama_pool.router.compat.checks.requests import loaded, show
from vllama_pool.router.compat.expect import Differs, error, expect, field, json_object, lines, same, status
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

SYSTEM = "Answer as a temporary_model of vllama-compat."
PARAMETERS = {"temperature": 0.25, "stop": ["vllama-a", "vllama-b"]}
MESSAGES = [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Ahoy!"}]


def unique_name() -> str:
    return f"vllama-compat-{secrets.token_hex(4)}"


def expect_created(response: RawResponse) -> None:
    found = lines(response)
    for line in found:
        field(line, "status", str)
    same("last line", {"status": "success"}, found[-1])
    expect({"status": "writing manifest"} in found, "writing manifest", found)


async def delete(server: CheckedServer, name: str) -> None:
    response = await server.send("DELETE", "/api/delete", {"model": name})
    status(response, 200)
    same("body", b"", response.body)


@asynccontextmanager
async def temporary_model(server: CheckedServer) -> AsyncIterator[str]:
    """Has a system text, parameters and messages."""
    name = unique_name()
    fields = {"system": SYSTEM, "parameters": PARAMETERS, "messages": MESSAGES}
    expect_created(await server.post("/api/create", {"model": name, "from": server.model("chat"), **fields}))
    try:
        yield name
    finally:
        await server.send("DELETE", "/api/delete", {"model": name})


@covers(15, 107, 108, writes=True)
async def create_derives_a_model(server: CheckedServer) -> None:
    async with temporary_model(server) as name:
        found = await show(server, name)
        same("system", SYSTEM, field(found, "system", str))
        same("messages", MESSAGES, field(found, "messages", list))
        lines_shown = [line.split(maxsplit=1) for line in field(found, "parameters", str).splitlines()]
        for pair in (["temperature", "0.25"], ["stop", '"vllama-a"'], ["stop", '"vllama-b"']):
            expect(pair in lines_shown, " ".join(pair), found["parameters"])
        expect(SYSTEM in field(found, "modelfile", str), "the system text in the modelfile", found["modelfile"])
        same("name", f"{name}:latest", field(await tagged(server, name), "name", str))


@covers(15, writes=True)
async def a_created_model_answers(server: CheckedServer) -> None:
    async with temporary_model(server) as name:
        loaded(await server.post("/api/generate", {"model": name}))
        body = {"model": name, "prompt": "Ahoy!", "stream": False, "options": {"num_predict": 4}}
        same("model", name, field(json_object(await server.post("/api/generate", body)), "model", str))


@covers(15, 107, writes=True)
async def create_without_streaming_is_one_object(server: CheckedServer) -> None:
    name = unique_name()
    body = {"model": name, "from": server.model("chat"), "system": SYSTEM, "stream": False}
    same("response", {"status": "success"}, json_object(await server.post("/api/create", body)))
    await delete(server, name)


@covers(85, writes=True)
async def a_system_message_replaces_the_models_system_text(server: CheckedServer) -> None:
    async with temporary_model(server) as name:
        question = {"role": "user", "content": "Who are you?"}
        own = {"role": "system", "content": "Answer as a monk."}
        expect(SYSTEM in await rendered(server, name, [question]), "the model's system text in the prompt", "none")
        found = await rendered(server, name, [own, question])
        expect(SYSTEM not in found and "monk" in found, "the message's system text alone", found)


async def rendered(server: CheckedServer, name: str, messages: list[dict[str, str]]) -> str:
    body = {"model": name, "messages": messages, "_debug_render_only": True}
    found = field(json_object(await server.post("/api/chat", body)), "_debug_info", dict)
    return field(found, "rendered_template", str)


@covers(18, writes=True)
async def a_copy_is_a_second_name(server: CheckedServer) -> None:
    source = server.model("chat")
    name = unique_name()
    response = await server.post("/api/copy", {"source": source, "destination": name})
    status(response, 200)
    same("body", b"", response.body)
    try:
        loaded(await server.post("/api/generate", {"model": name}))
        await tagged(server, name)
    finally:
        await delete(server, name)


@covers(11, writes=True)
async def a_deleted_model_is_gone(server: CheckedServer) -> None:
    async with temporary_model(server) as name:
        await delete(server, name)
        if any(item.get("name") == f"{name}:latest" for item in await tags(server)):
            raise Differs(f"expected {name} to be gone; it is still listed")
        error(await server.post("/api/generate", {"model": name}), 404, f"model '{name}' not found")
        error(await server.send("DELETE", "/api/delete", {"name": name}), 404, f"model '{name}' not found")


@covers(6, 103, writes=True)
async def pulling_an_existing_model_succeeds(server: CheckedServer) -> None:
    response = await server.post("/api/pull", {"model": server.model("chat")})
    registry_answers(response)
    found = lines(response)
    steps = [field(line, "status", str) for line in found]
    same("first status", "pulling manifest", steps[0])
    same("last line", {"status": "success"}, found[-1])
    for step in ("verifying sha256 digest", "writing manifest"):
        expect(step in steps, step, steps)
    for line in found:
        if "digest" in line:
            expect(field(line, "digest", str).startswith("sha256:"), "a digest with sha256:", line)
            expect(line["status"].startswith("pulling "), "pulling and the digest's first digits", line)
            expect(type(line.get("total", 0)) is int, "total as an integer", line)


@covers(104, writes=True)
async def pull_without_streaming_is_one_object(server: CheckedServer) -> None:
    body = {"name": server.model("chat"), "stream": False}
    response = await server.post("/api/pull", body)
    registry_answers(response)
    same("response", {"status": "success"}, json_object(response))


async def change_half_closed(server: CheckedServer, method: str, path: str, fields: dict[str, Any]) -> RawResponse:
    body = json.dumps(fields).encode()
    data = head(server, method, path, f"Content-Length: {len(body)}") + body
    (response,) = await server.send_bytes(data, (method,), half_close=True)
    status(response, 200)
    return response


@covers(210, writes=True)
async def half_closed_clients_get_the_response_to_a_change(server: CheckedServer) -> None:
    first, second = unique_name(), unique_name()
    fields = {"model": first, "from": server.model("chat"), "system": SYSTEM, "stream": False}
    try:
        created = await change_half_closed(server, "POST", "/api/create", fields)
        same("response", {"status": "success"}, json_object(created))
        copied = await change_half_closed(server, "POST", "/api/copy", {"source": first, "destination": second})
        same("body", b"", copied.body)
        deleted = await change_half_closed(server, "DELETE", "/api/delete", {"model": second})
        same("body", b"", deleted.body)
    finally:
        for name in (first, second):
            await server.send("DELETE", "/api/delete", {"model": name})

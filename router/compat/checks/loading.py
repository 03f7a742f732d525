"""Requests that only load or unload, and keep_alive."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from vllama_pool.router.compat.checks.catalogue import moment, running
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.images import PICTURE
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import JSON, content_type, error, expect, field, json_object, same, timestamp
from vllama_pool.router.compat.server import SHORT, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

EMPTY_TEXT: dict[str, Any] = {"response": ""}
EMPTY_MESSAGE: dict[str, Any] = {"message": {"role": "assistant", "content": ""}}


def expect_empty_answer(response: RawResponse, model: str, empty: dict[str, Any], reason: str) -> None:
    """Require exactly model, created_at, empty content, done and done_reason (R088)."""
    found = json_object(response)
    content_type(response, JSON)
    expect(not response.body.endswith(b"\n"), "no newline at the end", response.body[-20:])
    timestamp(field(found, "created_at", str), utc=True)
    del found["created_at"]
    same("response", {"model": model, **empty, "done": True, "done_reason": reason}, found)


def without_prompt(
    rules: set[int], name: str, path: str, fields: dict[str, Any], reason: str, use: str = "chat"
) -> Check:

    async def run(server: CheckedServer) -> None:
        model = server.model(use)
        empty = EMPTY_MESSAGE if path == "/api/chat" else EMPTY_TEXT
        expect_empty_answer(await server.post(path, {"model": model, **fields}), model, empty, reason)

    return Check(frozenset(rules), name, run)


GENERATE, CHAT = "/api/generate", "/api/chat"
LOADS = (
    without_prompt({50, 87, 88}, "no prompt", GENERATE, {}, "load"),
    without_prompt({50, 87, 88}, "an empty prompt", GENERATE, {"prompt": "", "stream": True}, "load"),
    without_prompt({71, 87, 88}, "no messages", CHAT, {}, "load"),
    without_prompt({71, 87, 88}, "an empty list of messages", CHAT, {"messages": [], "stream": True}, "load"),
    without_prompt({90}, "an image alone", GENERATE, {"images": [PICTURE]}, "load"),
    without_prompt({58}, "keep_alive as clients send it", GENERATE, {"keep_alive": "5m0s"}, "load"),
    without_prompt({92}, "seconds", GENERATE, {"keep_alive": 300}, "load"),
    without_prompt({92}, "parts of seconds", CHAT, {"keep_alive": 300.5}, "load"),
    without_prompt({92}, "a duration", CHAT, {"keep_alive": "1h30m"}, "load"),
    without_prompt({92}, "for ever", GENERATE, {"keep_alive": -1}, "load"),
    without_prompt({92}, "for ever, in words", GENERATE, {"keep_alive": "-1m"}, "load"),
    without_prompt({92}, "null", GENERATE, {"keep_alive": None}, "load"),
)


def invalid_keep_alive(value: object, text: str) -> Check:
    async def run(server: CheckedServer) -> None:
        for path in (GENERATE, CHAT):
            error(await server.post(path, {"model": server.model("chat"), "keep_alive": value}), 400, text)

    return Check(frozenset({92}), f"keep_alive {value!r}", run)


INVALID_KEEP_ALIVES = (
    invalid_keep_alive("5", 'time: missing unit in duration "5"'),
    invalid_keep_alive("", 'time: invalid duration ""'),
    invalid_keep_alive("soon", 'time: invalid duration "soon"'),
    invalid_keep_alive(True, "Unsupported type: 'bool'"),
)


@covers(93)
async def the_last_keep_alive_sets_the_expiry(server: CheckedServer) -> None:
    model = server.model("chat")
    at = await until(server, model, -1)
    expect(at > timedelta(days=20 * 365), "an expiry decades ahead", str(at))
    at = await until(server, model, None)
    expect(at > timedelta(days=20 * 365), "an expiry still decades ahead", str(at))
    at = await until(server, model, "10m")
    expect(timedelta(minutes=9) < at < timedelta(minutes=11), "an expiry in ten minutes", str(at))
    loaded(await server.post(GENERATE, {"model": model}))


@covers(223)
async def ps_is_the_same_on_every_connection(server: CheckedServer) -> None:
    model = server.model("chat")
    loaded(await server.post(GENERATE, {"model": model, "keep_alive": "25m"}))
    found: list[datetime] = []
    for _ in range(16):
        found.append(moment(field(await running(server, model), "expires_at", str)))
    loaded(await server.post(GENERATE, {"model": model}))
    expect(max(found) - min(found) < timedelta(seconds=2), "one expiry", [str(time) for time in sorted(set(found))])


async def until(server: CheckedServer, model: str, keep_alive: object) -> timedelta:
    """Load with this keep_alive. Return the time until ps says that it expires."""
    found = loaded(await server.post(GENERATE, {"model": model, "keep_alive": keep_alive}))
    expires = field(await running(server, model), "expires_at", str)
    return moment(expires) - moment(field(found, "created_at", str))


@covers(89)
async def a_prompt_is_answered_before_the_unload(server: CheckedServer) -> None:
    found = json_object(await server.generate(stream=False, keep_alive=0, options={**SHORT, "num_predict": 2}))
    expect(found.get("done_reason") in ("stop", "length"), "done_reason stop or length", found)
    expect(field(found, "eval_count", int) > 0, "eval_count above 0", found)


UNLOADS = (
    without_prompt({87, 88}, "unload by 0", GENERATE, {"keep_alive": 0, "options": {"top_k": "x"}}, "unload"),
    without_prompt({87, 88}, 'unload by "0s"', CHAT, {"keep_alive": "0s", "messages": []}, "unload"),
    without_prompt({87, 88}, 'unload by "0"', GENERATE, {"keep_alive": "0", "prompt": ""}, "unload"),
    without_prompt({87}, "unload what cannot generate", GENERATE, {"keep_alive": 0}, "unload", use="embed"),
)

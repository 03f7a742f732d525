"""Requests that only load or unload, and keep_alive (R050, R058, R071, R087-R090, R092, R093)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.checks.catalogue import moment, running
from vllama_pool.router.compat.checks.images import PICTURE
from vllama_pool.router.compat.checks.requests import loaded
from vllama_pool.router.compat.expect import JSON, a_time, an_object, content_type, error, expect, field, same
from vllama_pool.router.compat.server import FEW, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

EMPTY_TEXT: dict[str, Any] = {"response": ""}
EMPTY_MESSAGE: dict[str, Any] = {"message": {"role": "assistant", "content": ""}}


def plain_reply(response: RawResponse, model: str, empty: dict[str, Any], reason: str) -> None:
    """Require exactly model, created_at, empty content, done and done_reason (R088)."""
    found = an_object(response)
    content_type(response, JSON)
    expect(not response.body.endswith(b"\n"), "no newline at the end", response.body[-20:])
    a_time(field(found, "created_at", str), utc=True)
    del found["created_at"]
    same("response", {"model": model, **empty, "done": True, "done_reason": reason}, found)


def nothing(rules: set[int], name: str, path: str, fields: dict[str, Any], reason: str, use: str = "chat") -> Check:
    """A request without a prompt."""

    async def ask(server: CheckedServer) -> None:
        model = server.model(use)
        empty = EMPTY_MESSAGE if path == "/api/chat" else EMPTY_TEXT
        plain_reply(await server.post(path, {"model": model, **fields}), model, empty, reason)

    return Check(frozenset(rules), name, ask)


GENERATE, CHAT = "/api/generate", "/api/chat"
LOADS = (
    nothing({50, 87, 88}, "no prompt", GENERATE, {}, "load"),
    nothing({50, 87, 88}, "an empty prompt", GENERATE, {"prompt": "", "stream": True}, "load"),
    nothing({71, 87, 88}, "no messages", CHAT, {}, "load"),
    nothing({71, 87, 88}, "an empty list of messages", CHAT, {"messages": [], "stream": True}, "load"),
    nothing({90}, "an image alone", GENERATE, {"images": [PICTURE]}, "load"),
    nothing({58}, "keep_alive as clients send it", GENERATE, {"keep_alive": "5m0s"}, "load"),
    nothing({92}, "seconds", GENERATE, {"keep_alive": 300}, "load"),
    nothing({92}, "parts of seconds", CHAT, {"keep_alive": 300.5}, "load"),
    nothing({92}, "a duration", CHAT, {"keep_alive": "1h30m"}, "load"),
    nothing({92}, "for ever", GENERATE, {"keep_alive": -1}, "load"),
    nothing({92}, "for ever, in words", GENERATE, {"keep_alive": "-1m"}, "load"),
    nothing({92}, "null", GENERATE, {"keep_alive": None}, "load"),
)


def not_a_time(value: object, text: str) -> Check:
    async def ask(server: CheckedServer) -> None:
        for path in (GENERATE, CHAT):
            error(await server.post(path, {"model": server.model("chat"), "keep_alive": value}), 400, text)

    return Check(frozenset({92}), f"keep_alive {value!r}", ask)


NOT_TIMES = (
    not_a_time("5", 'time: missing unit in duration "5"'),
    not_a_time("", 'time: invalid duration ""'),
    not_a_time("soon", 'time: invalid duration "soon"'),
    not_a_time(True, "Unsupported type: 'bool'"),
)


@covers(93)
async def the_last_keep_alive_counts(server: CheckedServer) -> None:
    model = server.model("chat")
    at = await until(server, model, -1)
    expect(at > timedelta(days=20 * 365), "an expiry decades ahead", str(at))
    at = await until(server, model, "10m")
    expect(timedelta(minutes=9) < at < timedelta(minutes=11), "an expiry in ten minutes", str(at))
    loaded(await server.post(GENERATE, {"model": model}))


async def until(server: CheckedServer, model: str, keep_alive: object) -> timedelta:
    """Load a model with this keep_alive, and return the time to its expiry in ps."""
    found = loaded(await server.post(GENERATE, {"model": model, "keep_alive": keep_alive}))
    expires = field(await running(server, model), "expires_at", str)
    return moment(expires) - moment(field(found, "created_at", str))


@covers(89)
async def a_prompt_is_answered_before_the_unload(server: CheckedServer) -> None:
    found = an_object(await server.generate(stream=False, keep_alive=0, options={**FEW, "num_predict": 2}))
    expect(found.get("done_reason") in ("stop", "length"), "done_reason stop or length", found)
    expect(field(found, "eval_count", int) > 0, "eval_count above 0", found)


UNLOADS = (
    nothing({87, 88}, "unload by 0", GENERATE, {"keep_alive": 0, "options": {"top_k": "x"}}, "unload"),
    nothing({87, 88}, 'unload by "0s"', CHAT, {"keep_alive": "0s", "messages": []}, "unload"),
    nothing({87, 88}, 'unload by "0"', GENERATE, {"keep_alive": "0", "prompt": ""}, "unload"),
    nothing({87}, "unload what cannot generate", GENERATE, {"keep_alive": 0}, "unload", use="embed"),
)

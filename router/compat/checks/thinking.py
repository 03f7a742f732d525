"""Thinking."""

from __future__ import annotations

from vllama_pool.router.compat.checks.answers import NATIVE, request_answer, streamed, text, thinking, whole
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.generate import SCHEMA
from vllama_pool.router.compat.expect import error, expect, same
from vllama_pool.router.compat.server import SHORT, CheckedServer

LEVELS = ("low", "medium", "high", "max")
ALLOWED = '"high", "medium", "low", "max", true, or false'
LONGER = {**SHORT, "num_predict": 96}


def invalid_think(value: object, message: str) -> Check:
    async def run(server: CheckedServer) -> None:
        for endpoint in NATIVE:
            error(await request_answer(server, endpoint, think=value), 400, message)

    return Check(frozenset({61, 94}), f"think {value!r}", run)


INVALID_THINKS = (
    invalid_think("x", f'invalid think value: "x" (must be {ALLOWED})'),
    invalid_think(5, f"think must be a boolean or string ({ALLOWED})"),
)


@covers(95, 158)
async def models_without_thinking_refuse_it(server: CheckedServer) -> None:
    model = server.model("unthinking")
    for endpoint in NATIVE:
        for value in (True, "low"):
            response = await request_answer(server, endpoint, use="unthinking", think=value)
            error(response, 400, f'"{model}" does not support thinking')


@covers(95)
async def models_without_thinking_accept_think_false(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        same("thinking", "", thinking(endpoint, await whole(server, endpoint, use="unthinking", think=False)))


@covers(95)
async def models_that_can_think_do_by_default(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        for fields in ({}, {"think": True}, {"think": None}):
            found = await whole(server, endpoint, use="thinking", options=LONGER, **fields)
            expect(thinking(endpoint, found), "thinking", found)


@covers(61, 95)
async def thinking_can_be_turned_off(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        found = await whole(server, endpoint, use="thinking", options=LONGER, think=False)
        same("thinking", "", thinking(endpoint, found))
        expect(text(endpoint, found), "an answer", found)


@covers(96)
async def every_think_level_is_accepted(server: CheckedServer) -> None:
    for level in LEVELS:
        await whole(server, "chat", use="thinking", think=level)


@covers(84)
async def thinking_comes_first(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        found = await streamed(server, endpoint, use="thinking", options=LONGER)
        thoughts = [bool(thinking(endpoint, line)) for line in found]
        expect(any(thoughts), "thinking", found[0])
        last = len(thoughts) - 1 - thoughts[::-1].index(True)
        before = [text(endpoint, line) for line in found[: last + 1]]
        expect(not any(before), "no text before the end of the thinking", before)


@covers(98)
async def format_does_not_constrain_thinking(server: CheckedServer) -> None:
    found = await whole(server, "chat", use="thinking", format=SCHEMA, options={**SHORT, "num_predict": 256})
    expect(thinking("chat", found), "thinking", found)
    answer = text("chat", found)
    expect(found["done_reason"] == "length" or answer.lstrip().startswith("{"), "a JSON object", answer)

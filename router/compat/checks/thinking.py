"""Thinking (R061, R084, R094-R098, R158)."""

from __future__ import annotations

from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.checks.answers import NATIVE, asked, streamed, text, thinking, whole
from vllama_pool.router.compat.checks.generate import SCHEMA
from vllama_pool.router.compat.expect import error, expect, same
from vllama_pool.router.compat.server import FEW, CheckedServer

LEVELS = ("low", "medium", "high", "max")
CHOICES = '"high", "medium", "low", "max", true, or false'
LONGER = {**FEW, "num_predict": 96}


def not_a_choice(value: object, said: str) -> Check:
    async def ask(server: CheckedServer) -> None:
        for endpoint in NATIVE:
            error(await asked(server, endpoint, think=value), 400, said)

    return Check(frozenset({61, 94}), f"think {value!r}", ask)


NOT_CHOICES = (
    not_a_choice("x", f'invalid think value: "x" (must be {CHOICES})'),
    not_a_choice(5, f"think must be a boolean or string ({CHOICES})"),
)


@covers(95, 158)
async def models_without_thinking_refuse_it(server: CheckedServer) -> None:
    model = server.model("unthinking")
    for endpoint in NATIVE:
        for value in (True, "low"):
            response = await asked(server, endpoint, use="unthinking", think=value)
            error(response, 400, f'"{model}" does not support thinking')


@covers(95)
async def models_without_thinking_may_be_told_not_to(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        same("thinking", "", thinking(endpoint, await whole(server, endpoint, use="unthinking", think=False)))


@covers(95)
async def models_that_can_think_do(server: CheckedServer) -> None:
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
async def every_level_is_taken(server: CheckedServer) -> None:
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
async def a_format_leaves_thinking_free(server: CheckedServer) -> None:
    found = await whole(server, "chat", use="thinking", format=SCHEMA, options={**FEW, "num_predict": 256})
    expect(thinking("chat", found), "thinking", found)
    said = text("chat", found)
    expect(found["done_reason"] == "length" or said.lstrip().startswith("{"), "a JSON object", said)

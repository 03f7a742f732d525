"""What only generate has, and what its fields do (R051-R066)."""

from __future__ import annotations

import re
from typing import Any

from vllama_pool.config import names
from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.checks.answers import NATIVE, streamed, whole
from vllama_pool.router.compat.expect import Skipped, an_object, error, expect, lacks, same, take
from vllama_pool.router.compat.target import FEW, Target

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
LONGER = {**FEW, "num_predict": 32}
CONFLICT = "raw mode does not support template, system, or context"


async def capabilities(target: Target, model: str) -> list[Any]:
    shown = an_object(await target.once("/api/show", {"model": model}))
    return take(shown, "capabilities", list)


def full_name(model: str) -> str:
    """With host, namespace and tag, as some errors have it (R159)."""
    try:
        return names.parse(model).full
    except names.InvalidName:
        raise Skipped(f"{model} is no name of Ollama's kind") from None


@covers(51, 159)
async def a_suffix_needs_a_model_that_can_insert(target: Target) -> None:
    model = target.model("chat")
    if "insert" in await capabilities(target, model):
        raise Skipped(f"{model} can insert")
    reply = await target.generate(prompt="def f(", suffix="return 1", stream=False)
    error(reply, 400, f"{full_name(model)} does not support insert")


@covers(52)
async def a_system_text_is_part_of_the_prompt(target: Target) -> None:
    words = "You are a very polite assistant who always greets everybody by name and title."
    without = take(await whole(target, "generate"), "prompt_eval_count", int)
    found = take(await whole(target, "generate", system=words), "prompt_eval_count", int)
    expect(found > without, f"more tokens than the {without} without a system text", found)


@covers(54)
async def a_context_can_be_sent_back(target: Target) -> None:
    first = await whole(target, "generate")
    context = take(first, "context", list)
    found = await whole(target, "generate", context=context)
    longer = take(found, "prompt_eval_count", int)
    expect(longer > take(first, "prompt_eval_count", int), "more tokens with a context", longer)
    expect(len(take(found, "context", list)) > len(context), "a longer context", found["context"])


@covers(56)
async def raw_refuses_what_makes_prompts(target: Target) -> None:
    for fields in ({"system": "x"}, {"template": "{{ .Prompt }}"}, {"context": [1, 2]}):
        error(await target.generate(raw=True, **fields), 400, CONFLICT)


@covers(56)
async def raw_has_no_context(target: Target) -> None:
    lacks(await whole(target, "generate", raw=True, prompt="Once upon a time"), "context")
    lacks((await streamed(target, "generate", raw=True, prompt="Once upon a time"))[-1], "context")


@covers(57)
async def no_format_by_null_and_empty_text(target: Target) -> None:
    for empty in (None, ""):
        await whole(target, "generate", format=empty)


@covers(57)
async def formats_bind_the_answer(target: Target) -> None:
    for wanted in ("json", SCHEMA):
        found = await whole(target, "generate", prompt="Say in JSON whether 1 is 1.", format=wanted, options=LONGER)
        said = take(found, "response", str) or "{"
        expect(said.lstrip().startswith("{"), "a JSON object", said)


@covers(46, 57)
async def other_formats_fail(target: Target) -> None:
    error(await target.generate(format="xml"), 500, re.compile(r'^invalid format: .*; expected "json" or a valid JSON'))


def logprobs(rules: set[int], endpoint: str, top: int) -> Check:
    """Entries for every token, with this many alternatives."""

    async def ask(target: Target) -> None:
        found = await whole(target, endpoint, logprobs=True, top_logprobs=top)
        entries = take(found, "logprobs", list)
        if found.get("done_reason") == "length":
            same("count of logprobs", FEW["num_predict"], len(entries))
        expect(entries, "logprobs", entries)
        for entry in entries:
            is_entry(entry, top)
        lines = await streamed(target, endpoint, logprobs=True, top_logprobs=top)
        expect(any("logprobs" in line for line in lines), "logprobs in the stream", lines[0])

    return Check(frozenset(rules), f"{endpoint}: logprobs with {top} alternatives", ask)


LOGPROBS = tuple(logprobs({64 + bool(top)}, endpoint, top) for endpoint in NATIVE for top in (0, 3))


def is_entry(entry: Any, top: int) -> None:
    """One token's entry (R064, R065)."""
    token_of(entry)
    if not top:
        lacks(entry, "top_logprobs")
        return
    others = take(entry, "top_logprobs", list)
    expect(0 < len(others) <= top, f"1 to {top} alternatives", others)
    values = [token_of(other) for other in others]
    expect(values == sorted(values, reverse=True), "the likeliest first", values)


def token_of(entry: Any) -> float:
    """The logarithm of a token, whose shape has been looked at."""
    expect(isinstance(entry, dict), "an object for each token", entry)
    token = take(entry, "token", str)
    value = take(entry, "logprob", float)
    expect(value <= 0, "a logprob of at most 0", value)
    if "\ufffd" not in token:
        same("bytes", list(token.encode()), take(entry, "bytes", list))
    return value


@covers(65)
async def alternatives_come_with_logprobs_alone(target: Target) -> None:
    lacks(await whole(target, "generate", top_logprobs=3), "logprobs")


@covers(66)
async def prompts_can_be_rendered_alone(target: Target) -> None:
    for reply in (await target.generate(_debug_render_only=True), await target.chat(_debug_render_only=True)):
        found = an_object(reply)
        same("done", False, take(found, "done", bool))
        prompt = take(take(found, "_debug_info", dict), "rendered_template", str)
        expect("Say hello to me." in prompt, "the prompt in rendered_template", prompt)

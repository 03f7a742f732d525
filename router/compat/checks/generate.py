"""Fields of generate."""

from __future__ import annotations

import re
from typing import Any

from vllama_pool.config import names
from vllama_pool.router.compat.checks.answers import NATIVE, streamed, whole
from vllama_pool.router.compat.checks.catalogue import description
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import Skipped, error, expect, field, json_object, lacks, same
from vllama_pool.router.compat.server import SHORT, CheckedServer

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
LONGER = {**SHORT, "num_predict": 32}
CONFLICT = "raw mode does not support template, system, or context"


async def capabilities(server: CheckedServer, model: str) -> list[Any]:
    return field(await description(server, model=model), "capabilities", list)


def full_name(model: str) -> str:
    """Name with host, namespace and tag, as in some errors (R159)."""
    try:
        return names.parse(model).full
    except names.InvalidName:
        raise Skipped(f"{model} is not a valid name in Ollama") from None


@covers(51, 159)
async def a_suffix_needs_a_model_that_can_insert(server: CheckedServer) -> None:
    model = server.model("chat")
    if "insert" in await capabilities(server, model):
        raise Skipped(f"{model} can insert")
    response = await server.generate(prompt="def f(", suffix="return 1", stream=False)
    error(response, 400, f"{full_name(model)} does not support insert")


@covers(52)
async def a_system_text_is_part_of_the_prompt(server: CheckedServer) -> None:
    words = "You are a very polite assistant who always greets everybody by name and title."
    without = field(await whole(server, "generate"), "prompt_eval_count", int)
    found = field(await whole(server, "generate", system=words), "prompt_eval_count", int)
    expect(found > without, f"more tokens than the {without} without a system text", found)


@covers(54)
async def a_context_can_be_sent_back(server: CheckedServer) -> None:
    first = await whole(server, "generate")
    context = field(first, "context", list)
    found = await whole(server, "generate", context=context)
    longer = field(found, "prompt_eval_count", int)
    expect(longer > field(first, "prompt_eval_count", int), "more tokens with a context", longer)
    expect(len(field(found, "context", list)) > len(context), "a longer context", found["context"])


@covers(56)
async def raw_refuses_system_template_and_context(server: CheckedServer) -> None:
    for fields in ({"system": "x"}, {"template": "{{ .Prompt }}"}, {"context": [1, 2]}):
        error(await server.generate(raw=True, **fields), 400, CONFLICT)


@covers(56)
async def raw_has_no_context(server: CheckedServer) -> None:
    lacks(await whole(server, "generate", raw=True, prompt="Once upon a time"), "context")
    lacks((await streamed(server, "generate", raw=True, prompt="Once upon a time"))[-1], "context")


@covers(57)
async def a_null_or_empty_format_means_no_format(server: CheckedServer) -> None:
    for empty in (None, ""):
        await whole(server, "generate", format=empty)


@covers(57)
async def format_constrains_the_answer(server: CheckedServer) -> None:
    for format_ in ("json", SCHEMA):
        found = await whole(server, "generate", prompt="Say in JSON whether 1 is 1.", format=format_, options=LONGER)
        answer = field(found, "response", str) or "{"
        expect(answer.lstrip().startswith("{"), "a JSON object", answer)


@covers(46, 57)
async def an_unknown_format_is_refused(server: CheckedServer) -> None:
    error(await server.generate(format="xml"), 500, re.compile(r'^invalid format: .*; expected "json" or a valid JSON'))


def logprobs(rules: set[int], endpoint: str, top: int) -> Check:

    async def run(server: CheckedServer) -> None:
        found = await whole(server, endpoint, logprobs=True, top_logprobs=top)
        entries = field(found, "logprobs", list)
        if found.get("done_reason") == "length":
            same("count of logprobs", SHORT["num_predict"], len(entries))
        expect(entries, "logprobs", entries)
        for entry in entries:
            is_entry(entry, top)
        lines = await streamed(server, endpoint, logprobs=True, top_logprobs=top)
        expect(any("logprobs" in line for line in lines), "logprobs in the stream", lines[0])

    return Check(frozenset(rules), f"{endpoint}: logprobs with {top} alternatives", run)


LOGPROBS = tuple(logprobs({64 + bool(top)}, endpoint, top) for endpoint in NATIVE for top in (0, 3))


def is_entry(entry: Any, top: int) -> None:
    """Require a valid entry (R064, R065)."""
    token_of(entry)
    if not top:
        lacks(entry, "top_logprobs")
        return
    others = field(entry, "top_logprobs", list)
    expect(0 < len(others) <= top, f"1 to {top} alternatives", others)
    values = [token_of(other) for other in others]
    expect(values == sorted(values, reverse=True), "the likeliest first", values)


def token_of(entry: Any) -> float:
    """Return the log probability of a valid entry."""
    expect(isinstance(entry, dict), "an object for each token", entry)
    token = field(entry, "token", str)
    value = field(entry, "logprob", float)
    expect(value <= 0, "a logprob of at most 0", value)
    if "\ufffd" not in token:
        same("bytes", list(token.encode()), field(entry, "bytes", list))
    return value


@covers(65)
async def top_logprobs_are_ignored_without_logprobs(server: CheckedServer) -> None:
    lacks(await whole(server, "generate", top_logprobs=3), "logprobs")


@covers(66)
async def debug_render_only_returns_the_prompt(server: CheckedServer) -> None:
    for response in (await server.generate(_debug_render_only=True), await server.chat(_debug_render_only=True)):
        found = json_object(response)
        same("done", False, field(found, "done", bool))
        prompt = field(field(found, "_debug_info", dict), "rendered_template", str)
        expect("Say hello to me." in prompt, "the prompt in rendered_template", prompt)

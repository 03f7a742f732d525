"""embed and embeddings (R025, R026, R091, R099-R101)."""

from __future__ import annotations

import math
from typing import Any

from vllama_pool.router.compat.check import Check, covers
from vllama_pool.router.compat.expect import JSON, Skipped, an_object, content_type, error, expect, lacks, same, take
from vllama_pool.router.compat.target import ABSENT, Target
from vllama_pool.router.compat.wire import Reply

TEXTS = ["Why is the sky blue?", "Why is the grass green?"]
LONGEST_TRIED = 8192
"""Tokens of context up to which a text is made that is too long."""
TOO_LONG = "the input length exceeds the context length"
BAD_INPUT = "invalid input type"
EXACT = 1e-3
"""How far a length may be from 1, and one vector's number from another's."""


async def embed(target: Target, value: Any, **fields: Any) -> Reply:
    return await target.once("/api/embed", {"model": target.model("embed"), "input": value, **fields})


async def vectors(target: Target, value: Any, **fields: Any) -> list[list[float]]:
    """The vectors, of numbers each."""
    found = take(an_object(await embed(target, value, **fields)), "embeddings", list)
    for vector in found:
        is_vector(vector)
    return found


def is_vector(vector: Any) -> None:
    right = isinstance(vector, list) and vector and all(type(number) in (int, float) for number in vector)
    expect(right, "a list of numbers", vector)


def length(vector: list[float]) -> float:
    return math.sqrt(sum(number * number for number in vector))


def alike(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < EXACT for a, b in zip(one, other, strict=True))


@covers(25, 45)
async def embed_answers(target: Target) -> None:
    reply = await embed(target, TEXTS)
    content_type(reply, JSON)
    found = an_object(reply)
    same("model", target.model("embed"), take(found, "model", str))
    same("count of vectors", len(TEXTS), len(await vectors(target, TEXTS)))
    for key in ("total_duration", "load_duration", "prompt_eval_count"):
        expect(take(found, key, int) > 0, f"{key} above 0", found[key])


@covers(25)
async def batches_keep_their_order(target: Target) -> None:
    batch, alone = await vectors(target, TEXTS), await vectors(target, TEXTS[1])
    same("count of vectors", 1, len(alone))
    expect(alike(batch[-1], alone[0]), "the second vector as for its text alone", batch[-1][:4])


@covers(25, 43)
async def embed_ignores_stream_and_null_options(target: Target) -> None:
    """As LangChain sends them."""
    options = dict.fromkeys(("temperature", "num_ctx", "top_k", "stop", "seed"))
    same("count of vectors", 1, len(await vectors(target, TEXTS[0], stream=True, options=options)))


@covers(99)
async def vectors_have_length_one(target: Target) -> None:
    for vector in await vectors(target, TEXTS):
        expect(abs(length(vector) - 1) < EXACT, "length 1", length(vector))


@covers(99)
async def vectors_can_be_cut(target: Target) -> None:
    (full, *_) = await vectors(target, TEXTS) or [[0.0]]
    half = max(1, len(full) // 2)
    for vector in await vectors(target, TEXTS, dimensions=half):
        same("dimensions", half, len(vector))
        expect(abs(length(vector) - 1) < EXACT, "length 1", length(vector))
    (whole, *_) = await vectors(target, TEXTS, dimensions=10 * len(full)) or [[]]
    expect(alike(whole, full), "the whole vector for more dimensions than there are", len(whole))


def load_only(value: Any) -> Check:
    async def ask(target: Target) -> None:
        found = an_object(await embed(target, value))
        same("reply", {"model": target.model("embed"), "embeddings": []}, found)

    return Check(frozenset({91, 100}), f"embed {value!r}", ask)


LOADS = (load_only(""), load_only([]), load_only(None))


@covers(100)
async def an_empty_text_in_a_list_is_one(target: Target) -> None:
    same("count of vectors", 1, len(await vectors(target, [""])))


def refused(value: Any) -> Check:
    async def ask(target: Target) -> None:
        error(await embed(target, value), 400, BAD_INPUT)

    return Check(frozenset({100}), f"embed {value!r} is refused", ask)


REFUSED = (refused(1), refused({"text": "x"}), refused(["x", 1]), refused([["x"]]))


@covers(100, 166)
async def a_bad_input_beats_a_missing_model(target: Target) -> None:
    error(await target.post("/api/embed", {"model": ABSENT, "input": 1}), 400, BAD_INPUT)


async def too_long(target: Target) -> str:
    """A text beyond the model's context. Raises Skipped where that is very long."""
    info = take(an_object(await target.once("/api/show", {"model": target.model("embed")})), "model_info", dict)
    context = next((value for key, value in info.items() if key.endswith(".context_length")), 0)
    if not isinstance(context, int) or not 0 < context <= LONGEST_TRIED:
        raise Skipped("the model's context is long")
    return "sky " * (context + 64)


@covers(101)
async def too_long_is_refused_where_it_may_not_be_cut(target: Target) -> None:
    text = await too_long(target)
    error(await embed(target, text, truncate=False), 400, TOO_LONG)
    error(await embed(target, ["short", text], truncate=False), 400, TOO_LONG)


@covers(101)
async def too_long_is_cut_otherwise(target: Target) -> None:
    same("count of vectors", 1, len(await vectors(target, await too_long(target))))


async def legacy(target: Target, **fields: Any) -> dict[str, Any]:
    return an_object(await target.once("/api/embeddings", {"model": target.model("embed"), **fields}))


@covers(26)
async def embeddings_answers(target: Target) -> None:
    found = await legacy(target, prompt=TEXTS[0])
    same("keys", ["embedding"], sorted(found))
    is_vector(take(found, "embedding", list))
    lacks(found, "model")


@covers(26, 91)
async def embeddings_of_nothing(target: Target) -> None:
    same("reply", {"embedding": []}, await legacy(target))
    same("reply", {"embedding": []}, await legacy(target, prompt=""))

"""Embeddings."""

from __future__ import annotations

import math
from typing import Any

from vllama_pool.router.compat.checks.catalogue import description
from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import JSON, Skipped, content_type, error, expect, field, json_object, lacks, same
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

TEXTS = ["Why is the sky blue?", "Why is the grass green?"]
MAX_CONTEXT = 8192
"""Tokens. Longer contexts are not filled."""
TOO_LONG = "the input length exceeds the context length"
BAD_INPUT = "invalid input type"
TOLERANCE = 1e-3


async def embed(server: CheckedServer, value: Any, **fields: Any) -> RawResponse:
    return await server.post_cached("/api/embed", {"model": server.model("embed"), "input": value, **fields})


async def vectors(server: CheckedServer, value: Any, **fields: Any) -> list[list[float]]:
    found = field(json_object(await embed(server, value, **fields)), "embeddings", list)
    for vector in found:
        is_vector(vector)
    return found


def is_vector(vector: Any) -> None:
    is_numbers = isinstance(vector, list) and vector and all(type(number) in (int, float) for number in vector)
    expect(is_numbers, "a list of numbers", vector)


def length(vector: list[float]) -> float:
    return math.sqrt(sum(number * number for number in vector))


def nearly_equal(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < TOLERANCE for a, b in zip(one, other, strict=True))


@covers(25, 45)
async def embed_answers(server: CheckedServer) -> None:
    response = await embed(server, TEXTS)
    content_type(response, JSON)
    found = json_object(response)
    same("model", server.model("embed"), field(found, "model", str))
    same("count of vectors", len(TEXTS), len(await vectors(server, TEXTS)))
    for key in ("total_duration", "load_duration", "prompt_eval_count"):
        expect(field(found, key, int) > 0, f"{key} above 0", found[key])


@covers(25)
async def batches_keep_their_order(server: CheckedServer) -> None:
    batch, alone = await vectors(server, TEXTS), await vectors(server, TEXTS[1])
    same("count of vectors", 1, len(alone))
    expect(nearly_equal(batch[-1], alone[0]), "the second vector as for its text alone", batch[-1][:4])


@covers(25, 43)
async def embed_ignores_stream_and_null_options(server: CheckedServer) -> None:
    """LangChain sends null options."""
    options = dict.fromkeys(("temperature", "num_ctx", "top_k", "stop", "seed"))
    same("count of vectors", 1, len(await vectors(server, TEXTS[0], stream=True, options=options)))


@covers(99)
async def vectors_have_length_one(server: CheckedServer) -> None:
    for vector in await vectors(server, TEXTS):
        expect(abs(length(vector) - 1) < TOLERANCE, "length 1", length(vector))


@covers(99)
async def vectors_are_truncated_to_dimensions(server: CheckedServer) -> None:
    (full, *_) = await vectors(server, TEXTS) or [[0.0]]
    half = max(1, len(full) // 2)
    for vector in await vectors(server, TEXTS, dimensions=half):
        same("dimensions", half, len(vector))
        expect(abs(length(vector) - 1) < TOLERANCE, "length 1", length(vector))
    (whole, *_) = await vectors(server, TEXTS, dimensions=10 * len(full)) or [[]]
    expect(nearly_equal(whole, full), "the whole vector for more dimensions than there are", len(whole))


def is_load(value: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        found = json_object(await embed(server, value))
        same("response", {"model": server.model("embed"), "embeddings": []}, found)

    return Check(frozenset({91, 100}), f"embed {value!r}", run)


LOADS = (is_load(""), is_load([]), is_load(None))


@covers(100)
async def an_empty_text_in_a_list_has_a_vector(server: CheckedServer) -> None:
    same("count of vectors", 1, len(await vectors(server, [""])))


def refused(value: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        error(await embed(server, value), 400, BAD_INPUT)

    return Check(frozenset({100}), f"embed {value!r} is refused", run)


REFUSED = (refused(1), refused({"text": "x"}), refused(["x", 1]), refused([["x"]]))


@covers(100, 166)
async def an_invalid_input_is_reported_before_a_missing_model(server: CheckedServer) -> None:
    error(await server.post("/api/embed", {"model": ABSENT_MODEL, "input": 1}), 400, BAD_INPUT)


async def too_long(server: CheckedServer) -> str:
    """A text above the model's context. Raises Skipped if that is too large."""
    info = field(await description(server, model=server.model("embed")), "model_info", dict)
    context = next((value for key, value in info.items() if key.endswith(".context_length")), 0)
    if not isinstance(context, int) or not 0 < context <= MAX_CONTEXT:
        raise Skipped("the model's context is long")
    return "sky " * (context + 64)


@covers(101)
async def a_long_text_is_refused_without_truncate(server: CheckedServer) -> None:
    text = await too_long(server)
    error(await embed(server, text, truncate=False), 400, TOO_LONG)
    error(await embed(server, ["short", text], truncate=False), 400, TOO_LONG)


@covers(101)
async def a_long_text_is_truncated_by_default(server: CheckedServer) -> None:
    same("count of vectors", 1, len(await vectors(server, await too_long(server))))


async def legacy(server: CheckedServer, **fields: Any) -> dict[str, Any]:
    return json_object(await server.post_cached("/api/embeddings", {"model": server.model("embed"), **fields}))


@covers(26)
async def embeddings_answers(server: CheckedServer) -> None:
    found = await legacy(server, prompt=TEXTS[0])
    same("keys", ["embedding"], sorted(found))
    is_vector(field(found, "embedding", list))
    lacks(found, "model")


@covers(26, 91)
async def embeddings_of_an_empty_prompt_are_empty(server: CheckedServer) -> None:
    same("response", {"embedding": []}, await legacy(server))
    same("response", {"embedding": []}, await legacy(server, prompt=""))

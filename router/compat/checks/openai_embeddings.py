"""OpenAI's embeddings."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.checks.embeddings import TEXTS, TOLERANCE, is_vector, length, nearly_equal
from vllama_pool.router.compat.checks.v1_requests import EMBEDDINGS, ask, refused, whole
from vllama_pool.router.compat.expect import Differs, expect, field, objects, same
from vllama_pool.router.compat.server import CheckedServer


async def entries(server: CheckedServer, **fields: Any) -> list[Any]:
    """Return the texts that `embedding` holds."""
    found = await whole(server, EMBEDDINGS, **fields)
    same("object", "list", field(found, "object", str))
    data = objects(found, "data")
    for index, entry in enumerate(data):
        same("object", "embedding", field(entry, "object", str))
        same("index", index, field(entry, "index", int))
    return [entry.get("embedding") for entry in data]


async def vector(server: CheckedServer, **fields: Any) -> list[float]:
    """The vector of one text."""
    found = await vectors(server, **fields)
    same("count of vectors", 1, len(found))
    return found[0]


async def vectors(server: CheckedServer, **fields: Any) -> list[list[float]]:
    found = await entries(server, **fields)
    for each in found:
        is_vector(each)
    return found


def decoded(value: Any) -> list[float]:
    """Decode little-endian float32 in base64."""
    expect(isinstance(value, str), "the embedding as a text", value)
    try:
        data = base64.b64decode(value, validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except (binascii.Error, struct.error):
        raise Differs(f"expected float32 in base64; got {value[:40]}") from None


@covers(29, 116)
async def openai_embeddings_answers(server: CheckedServer) -> None:
    same("count of vectors", 1, len(await vectors(server)))
    found = field(await whole(server, EMBEDDINGS), "usage", dict)
    tokens = field(found, "prompt_tokens", int)
    expect(tokens > 0, "prompt_tokens above 0", tokens)
    same("total_tokens", tokens, field(found, "total_tokens", int))


@covers(116)
async def openai_embeddings_keep_their_order(server: CheckedServer) -> None:
    batch = await vectors(server, input=TEXTS)
    same("count of vectors", len(TEXTS), len(batch))
    for text, together in zip(TEXTS, batch, strict=True):
        alone = await vector(server, input=text)
        expect(nearly_equal(alone, together), "the vector as for its text alone", together[:4])


@covers(116)
async def openai_vectors_have_length_one(server: CheckedServer) -> None:
    for each in await vectors(server, input=TEXTS):
        expect(abs(length(each) - 1) < TOLERANCE, "length 1", length(each))


@covers(116)
async def openai_embeddings_come_as_floats_or_base64(server: CheckedServer) -> None:
    plain = await vector(server)
    floats = await vector(server, encoding_format="float")
    expect(nearly_equal(plain, floats), "floats by default", floats[:4])
    packed = await entries(server, encoding_format="base64")
    expect(len(packed) == 1 and nearly_equal(plain, decoded(packed[0])), "the same vector in base64", packed)


@covers(116)
async def an_empty_text_has_an_openai_vector(server: CheckedServer) -> None:
    for value in ("", [""]):
        same("count of vectors", 1, len(await vectors(server, input=value)))


@covers(116)
async def openai_vectors_are_truncated_to_dimensions(server: CheckedServer) -> None:
    """OpenAI refuses dimensions for models that were not trained for them."""
    full = await vector(server)
    half = max(1, len(full) // 2)
    response = await ask(server, EMBEDDINGS, dimensions=half)
    if response.status == 400:
        refused(EMBEDDINGS, response, 400, "dimensions")
        return
    found = await vector(server, dimensions=half)
    same("dimensions", half, len(found))
    expect(abs(length(found) - 1) < TOLERANCE, "length 1", length(found))


def refuses(name: str, *words: str, **fields: Any) -> Check:
    async def run(server: CheckedServer) -> None:
        refused(EMBEDDINGS, await ask(server, EMBEDDINGS, **fields), 400, *words)

    return Check(frozenset({116}), f"embeddings refuses {name}", run)


REFUSED = (
    refuses("no input", input=None),
    refuses("an empty list", input=[]),
    refuses("an object", input={"text": "x"}),
    refuses("an unknown encoding", "encoding_format", encoding_format="hex"),
)

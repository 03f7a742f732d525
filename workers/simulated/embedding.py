"""Embeddings that depend on the text alone."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import struct
import time
from collections.abc import Sequence

import msgspec

from vllama_pool.workers.simulated import context, errors, prompts, vocabulary
from vllama_pool.workers.simulated.errors import ApiError, HttpResponse
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.shapes import EmbeddingRequest

FIRST, LAST = vocabulary.IM_START, vocabulary.IM_END


def answer(body: EmbeddingRequest, options: Options) -> HttpResponse:
    """Raises ApiError."""
    data, count = [], 0
    for index, prompt in enumerate(prompts.as_prompts(body.input)):
        tokens = tokenize(prompt, body.truncate_prompt_tokens, options.max_model_len)
        count += len(tokens)
        values = vector(tokens, options.dimensions, unit=body.use_activation is not False)
        shown = as_base64(values) if body.encoding_format == "base64" else values
        data.append({"index": index, "object": "embedding", "embedding": shown})
    usage = {
        "prompt_tokens": count,
        "total_tokens": count,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    fields = {
        "id": f"embd-{secrets.token_hex(8)}",
        "object": "list",
        "created": int(time.time()),
        "model": options.model,
        "data": data,
        "usage": usage,
    }
    return HttpResponse(200, msgspec.json.encode(fields))


def check(body: EmbeddingRequest, options: Options) -> None:
    """Validate everything except the texts. Raises ApiError."""
    if body.model and body.model not in options.names:
        raise errors.unknown_model(body.model, ())
    if body.dimensions is not None:
        raise ApiError(
            f"Model '{options.model}' does not support Matryoshka embeddings; dimensions must be unset "
            f"(received dimensions={body.dimensions})."
        )
    check_truncation(body.truncate_prompt_tokens, options)


def check_truncation(cut: int | None, options: Options) -> None:
    """Raises ApiError."""
    if (cut or 0) > options.max_model_len:
        raise ApiError(
            "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
        )


def tokenize(prompt: str | list[int], cut: int | None, limit: int) -> list[int]:
    """Raises ApiError for too many tokens or none."""
    tokens = context.tokenize(prompt, limit, truncated=cut is not None)
    if isinstance(prompt, str):
        tokens = add_special_tokens(tokens)
    if cut is not None:
        tokens = _cut(tokens, limit if cut == -1 else cut, whole=isinstance(prompt, str))
    context.check(prompt, tokens, limit, room=0)
    if not tokens:
        raise ApiError("The decoder prompt cannot be empty")
    return tokens


def add_special_tokens(tokens: list[int]) -> list[int]:
    """Add one token at either end, as BERT does."""
    return [FIRST, *tokens, LAST]


def vector(tokens: Sequence[int], dimensions: int, *, unit: bool = True) -> list[float]:
    """Sum one direction per token, so that similar texts are close."""
    sums = [0.0] * dimensions
    for token in tokens:
        for index, value in enumerate(_direction(token, dimensions)):
            sums[index] += value
    length = math.sqrt(sum(value * value for value in sums)) if unit else 0.0
    return [value / (length or 1.0) for value in sums]


def as_base64(values: Sequence[float]) -> str:
    """Encode little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _cut(tokens: list[int], most: int, *, whole: bool) -> list[int]:
    """Truncate. `whole` keeps the final token."""
    if len(tokens) <= most:
        return tokens
    return [*tokens[: most - 1], LAST] if whole and most > 1 else tokens[:most]


def _direction(token: int, dimensions: int) -> list[float]:
    digest = hashlib.shake_128(token.to_bytes(8, "little")).digest(dimensions)
    return [byte / 127.5 - 1.0 for byte in digest]

"""Log probabilities that depend on the token alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllama_pool.workers.simulated import vocabulary
from vllama_pool.workers.simulated.answers import Token


def chat_logprobs(tokens: Sequence[Token], top: int) -> list[dict[str, Any]]:
    """With up to `top` alternatives."""
    return [
        {**_entry(token.id, 0), "top_logprobs": [_entry(_other(token.id, rank), rank) for rank in range(top)]}
        for token in tokens
    ]


def completion_logprobs(tokens: Sequence[Token], top: int, offset: int) -> dict[str, Any]:
    """`offset`: start of the first token's text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "text_offset": offsets,
        "token_logprobs": [_logprob(token.id, 0) for token in tokens],
        "tokens": [_text(token.id) for token in tokens],
        "top_logprobs": [
            {_text(_other(token.id, rank)): _logprob(token.id, rank) for rank in range(max(1, top))} for token in tokens
        ],
    }


def _entry(token: int, rank: int) -> dict[str, Any]:
    data = vocabulary.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": _logprob(token, rank), "bytes": list(data)}


def _other(token: int, rank: int) -> int:
    """Return a neighbour that differs in the last byte."""
    return token if rank == 0 else (token & ~0xFF) | ((token + rank) & 0xFF) if token >= 1024 else rank


def _text(token: int) -> str:
    return vocabulary.token_bytes(token).decode("utf-8", "replace")


def _logprob(token: int, rank: int) -> float:
    return -(1 + token % 97) / 100.0 - rank

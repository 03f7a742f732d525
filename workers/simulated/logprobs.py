"""Log probabilities that depend on the token alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vllama_pool.workers.simulated import vocabulary
from vllama_pool.workers.simulated.answers import Token


def chat_logprobs(tokens: Iterable[Token], top: int) -> list[dict[str, Any]]:
    """With up to `top` alternatives."""
    return [
        {**_entry(token.id, 0), "top_logprobs": [_entry(_other(token.id, rank), rank) for rank in range(top)]}
        for token in tokens
    ]


def completion_logprobs(prompt: Sequence[int], tokens: Sequence[Token], top: int, offset: int) -> dict[str, Any]:
    """Return those of an echoed prompt and its answer. `offset`: start of the first token's text."""
    ids = [*prompt, *(token.id for token in tokens)]
    unknown = 1 if prompt else 0
    texts = [_text(token) for token in ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    nothing: list[Any] = [None] * unknown
    return {
        "text_offset": offsets,
        "token_logprobs": nothing + [_logprob(token, 0) for token in ids[unknown:]],
        "tokens": texts,
        "top_logprobs": nothing
        + [
            {_text(_other(token, rank)): _logprob(token, rank) for rank in range(max(1, top))}
            for token in ids[unknown:]
        ],
    }


def prompt_logprobs(prompt: Sequence[int], top: int) -> list[dict[str, Any] | None]:
    """The first token has none."""
    return [
        None,
        *(
            {
                str(_other(token, rank)): {
                    "logprob": _logprob(token, rank),
                    "rank": rank + 1,
                    "decoded_token": _text(_other(token, rank)),
                }
                for rank in range(max(1, top))
            }
            for token in prompt[1:]
        ),
    ]


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

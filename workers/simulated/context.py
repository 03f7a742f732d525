"""The context's length, and prompts that exceed it. Pure."""

from __future__ import annotations

from vllama_pool.workers.simulated import errors, vocabulary


def tokens_of(prompt: str | list[int], limit: int, *, truncated: bool) -> list[int]:
    """The prompt's tokens. Raises Refusal for a text that is too long to be tokenized at all, unless the request
    wants it cut anyhow."""
    if not isinstance(prompt, str):
        return prompt
    bound = limit * vocabulary.LONGEST
    if len(prompt) > bound and not truncated:
        raise errors.too_many_characters(limit, len(prompt), bound)
    return vocabulary.encode(prompt)


def check(prompt: str | list[int], tokens: list[int], limit: int, *, room: int) -> None:
    """Raises Refusal where the tokens leave less than `room` of the limit. Text is counted only up to there."""
    if len(tokens) + room > limit:
        exact = not isinstance(prompt, str)
        raise errors.too_long(limit, len(tokens) if exact else limit + 1, exact=exact)

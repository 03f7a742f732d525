"""The context length. Pure."""

from __future__ import annotations

from vllama_pool.workers.simulated import errors, vocabulary


def tokenize(prompt: str | list[int], limit: int, *, truncated: bool) -> list[int]:
    """Return the prompt's tokens. Raises ApiError for an untruncated text too long to tokenize."""
    if not isinstance(prompt, str):
        return prompt
    bound = limit * vocabulary.LONGEST
    if len(prompt) > bound and not truncated:
        raise errors.too_many_characters(limit, len(prompt), bound)
    return vocabulary.encode(prompt)


def check(prompt: str | list[int], tokens: list[int], limit: int, *, room: int) -> None:
    """Raises ApiError if the tokens leave less than `room`. For text, the message says at least limit + 1 tokens."""
    if len(tokens) + room > limit:
        exact = not isinstance(prompt, str)
        raise errors.too_long(limit, len(tokens) if exact else limit + 1, exact=exact)

"""The context length."""

from __future__ import annotations

from vllama_pool.workers.simulated import errors, vocabulary


def tokenize(prompt: str | list[int], limit: int, *, truncated: bool) -> list[int]:
    """Raises ApiError if the text is certainly too long."""
    if not isinstance(prompt, str):
        return prompt
    bound = limit * vocabulary.LONGEST
    if len(prompt) > bound and not truncated:
        raise errors.too_many_characters(limit, len(prompt), bound)
    return vocabulary.encode(prompt)


def check(prompt: str | list[int], tokens: list[int], limit: int, *, room: int) -> None:
    """Raises ApiError if the tokens leave less than `room`."""
    if len(tokens) + room > limit:
        exact = not isinstance(prompt, str)
        raise errors.too_long(limit, len(tokens) if exact else limit + 1, exact=exact)

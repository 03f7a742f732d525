"""Describes values in messages. Pure."""

from __future__ import annotations

import math

from vllama_pool.config.redaction import redacted


def kind(value: object, source: str = "") -> str:
    """Describe a value, such as "the text 'a'". A value from the environment is described by its source alone."""
    if source and value is not None:
        return f"{_noun(value)} from '{_short(source)}'"
    if value is None:
        return f"nothing from '{_short(source)}'" if source else "nothing"
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    if isinstance(value, int):
        return f"the number {value}" if abs(value) < 10**20 else "a number"
    if isinstance(value, float):
        return f"the number {value:g}" if math.isfinite(value) else "no finite number"
    if isinstance(value, str):
        return f"the text '{_short(redacted(value[:_LONGEST]))}'"
    return _noun(value)


_LONGEST = 4096
"""Characters of a text that are searched for passwords, in quadratic time, before it is shortened."""


def _noun(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "a mapping"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

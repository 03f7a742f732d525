"""Text of others for terminals and logs. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """Return the text in one line, with its control characters as escapes such as \\x1b."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortlist(texts: Sequence[str], most: int = 10) -> str:
    """Return "a, b and 3 more"."""
    more = len(texts) - most
    shown = ", ".join(texts[:most])
    return f"{shown} and {more} more" if more > 0 else shown

"""Text of others for terminals. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text in one line, with its control characters as escapes such as \\x1b."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

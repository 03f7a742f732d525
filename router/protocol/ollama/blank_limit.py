"""The end of an answer that a `format` constrains.

vLLM's grammars allow white space without end unless a flag of the server forbids it; no version heeds such a wish in a
request. Weak models write it up to the limit of tokens. Ollama stops at 31 blank tokens in a row.
"""

from __future__ import annotations

MAX_BLANKS = 100
"""Characters in a row."""
_BLANKS = " \t\r\n"


class BlankLimit:
    __slots__ = ("_blanks",)

    def __init__(self) -> None:
        self._blanks = 0
        """Characters of white space at the end of the text so far."""

    def exceeded(self, text: str) -> bool:
        """True if the answer goes on with white space only. `text`: what follows."""
        blanks = len(text) - len(text.rstrip(_BLANKS))
        self._blanks = blanks if blanks < len(text) else self._blanks + blanks
        return self._blanks > MAX_BLANKS

"""An answer that a `format` constrains.

vLLM's grammars allow white space without end unless a flag of the server forbids it; no version heeds such a wish in a
request. Weak models write it up to the limit of tokens. Ollama stops at 31 blank tokens in a row.
"""

from __future__ import annotations

from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.vllm import api

MAX_BLANKS = 100
"""Characters in a row."""
_BLANKS = " \t\r\n"


class StructuredAnswer(AnswerBuilder):
    """Ends with reason "length" when its text goes on with white space only."""

    _blanks = 0
    """Characters of white space at the end of the text so far."""

    def add(self, choice: api.VllmChoice) -> bytes:
        lines = super().add(choice)
        text = (choice.delta.content if choice.delta is not None else choice.text) or ""
        if text and self.state.finish_reason is None and self._exceeded(text):
            self.state.finish_reason = "length"
            self.state.last = self._clock.monotonic_ns()
            self.state.count_tokens()
            self.cut_off = True
        return lines

    def _exceeded(self, text: str) -> bool:
        blanks = len(text) - len(text.rstrip(_BLANKS))
        self._blanks = blanks if blanks < len(text) else self._blanks + blanks
        return self._blanks > MAX_BLANKS

"""Generation of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from vllama_pool.workers.simulated import vocabulary
from vllama_pool.workers.simulated.answers import Kind, SimulatedText, Token

END = Token(vocabulary.EOS, "", Kind.HIDDEN, b'""')
"""It has no text but counts."""


@dataclass(frozen=True, slots=True)
class Ending:
    limit: int
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0


class Output(Protocol):
    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        """`finish` is "" before the last token."""


class Generation:
    __slots__ = ("_answer", "_ending", "_natural", "_output", "_stop_filter", "count", "prompt_tokens")

    def __init__(self, prompt_tokens: int, answer: SimulatedText, ending: Ending, output: Output) -> None:
        self.prompt_tokens = prompt_tokens
        self.count = 0
        self._answer = answer
        self._ending = ending
        self._output = output
        self._natural = 1 << 62 if ending.ignore_eos else max(answer.natural, ending.min_tokens)
        self._stop_filter = StopFilter(ending.stop, include=ending.include_stop) if ending.stop else None

    def step(self, now: float) -> str:
        finish = ""
        if self.count >= self._natural:
            token, finish = END, self._answer.finish
        else:
            token = self._answer.token(self.count)
        self.count += 1
        if not finish and self.count >= self._ending.limit:
            finish = "length"
        if self._stop_filter is None:
            self._output.token(token, finish, None)
            return finish
        token, reason = self._stop_filter.feed(token, last=bool(finish))
        finish = "stop" if reason is not None else finish
        self._output.token(token, finish, reason)
        return finish


class StopFilter:
    """Finds stop strings in content, and holds back text that could begin one.

    Drops held content before a call: it is a blank line.
    """

    def __init__(self, stop: Sequence[str], *, include: bool) -> None:
        self._stop = tuple(stop)
        self._include = include
        self._hold = max(map(len, stop)) - 1
        self._text = ""

    def feed(self, token: Token, *, last: bool) -> tuple[Token, str | None]:
        """Return the token with the released text, and the stop string found."""
        if token.kind is Kind.CONTENT:
            self._text += token.text
        elif not (last and token is END):
            return token, None
        found = min(((at, word) for word in self._stop if (at := self._text.find(word)) >= 0), default=None)
        if found is not None:
            at, word = found
            return _content(token, self._text[: at + len(word) if self._include else at]), word
        keep = 0 if last else min(self._hold, len(self._text))
        shown = self._text[: len(self._text) - keep]
        self._text = self._text[len(self._text) - keep :]
        return (token if token is END and not shown else _content(token, shown)), None


def _content(token: Token, text: str) -> Token:
    return Token(token.id, text, Kind.CONTENT, msgspec.json.encode(text))

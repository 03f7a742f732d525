"""Responses without streaming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vllama_pool.workers.simulated import vocabulary
from vllama_pool.workers.simulated.answers import Kind, Token


@dataclass(slots=True)
class Collected:
    """One sequence."""

    tokens: list[Token] = field(default_factory=list)
    finish: str = ""
    stop_reason: str | None = None

    def text(self, *kinds: Kind) -> str:
        return "".join(token.text for token in self.tokens if token.kind in kinds)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def content(self) -> str:
        """Includes the markup of calls that were cut off."""
        ids = self.ids
        markup = vocabulary.decode(ids[ids.index(vocabulary.TOOL_CALL) :]) if self._is_cut else ""
        return self.text(Kind.CONTENT) + markup

    def calls(self, most: int | None = None) -> list[tuple[str, str]]:
        """Return the names and the arguments. Calls that were cut off are content."""
        if self._is_cut:
            return []
        calls: list[tuple[str, str]] = []
        for token in self.tokens:
            if token.kind is Kind.CALL:
                calls.append((token.text, ""))
            elif token.kind is Kind.ARGUMENTS:
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + token.text)
        return calls[:most]

    @property
    def _is_cut(self) -> bool:
        ids = self.ids
        return ids.count(vocabulary.TOOL_CALL) > ids.count(vocabulary.END_TOOL_CALL) and self.finish == "length"


class Collector:
    """Collects sequences, and calls `done` after the last."""

    def __init__(self, sequences: int, done: Callable[[], None]) -> None:
        self.sequences = [Collected() for _ in range(sequences)]
        self._running = sequences
        self._done = done

    def token(self, index: int, token: Token, finish: str, stop_reason: str | None) -> None:
        self.sequences[index].tokens.append(token)
        if finish:
            self._finish(self.sequences[index], finish, stop_reason)

    def abort(self) -> None:
        for collected in self.sequences:
            if not collected.finish:
                self._finish(collected, "abort", None)

    def _finish(self, collected: Collected, finish: str, stop_reason: str | None) -> None:
        collected.finish, collected.stop_reason = finish, stop_reason
        self._running -= 1
        if not self._running:
            self._done()

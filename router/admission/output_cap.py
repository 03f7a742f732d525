"""The longest answer to the requests of an API key."""

from __future__ import annotations

from dataclasses import replace

from vllama_pool.config.routing.defaults import Defaults

MAX_KEPT = 1024
"""Defaults of models that a cap keeps."""


class OutputCap:
    """A limit on an answer's tokens, beside the one of each entry: the smaller one counts."""

    __slots__ = ("_made", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._made: dict[int, tuple[Defaults, Defaults]] = {}
        """By the identity of the entry's own, which take long to compare. The plans of requests are kept by it, too."""

    def __repr__(self) -> str:
        return f"<OutputCap of {self.tokens} tokens>"

    def apply(self, defaults: Defaults) -> Defaults:
        """Return the same object for the same entry."""
        if defaults.output is not None and defaults.output <= self.tokens:
            return defaults
        made = self._made.get(id(defaults))
        if made is None:
            if len(self._made) >= MAX_KEPT:
                self._made.clear()
            made = self._made[id(defaults)] = defaults, replace(defaults, output=self.tokens)
        return made[1]

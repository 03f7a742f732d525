"""Regular expressions that vLLM's grammars accept.

They lack look-around, back references and word boundaries, and compile large repetitions slowly.
"""

from __future__ import annotations

import re
import warnings
from typing import NoReturn

MAX_LENGTH = 1000
MAX_STATES = 500
"""Characters that a match may need; xgrammar's time grows with the square."""

_REPEAT = re.compile(r"\{(\d{1,6})(?:(,)(\d{0,6}))?\}")
_GROUP_KIND = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)")
_ESCAPE = re.compile(r"\\(?:[dDwWsStnrfv]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[^A-Za-z0-9])", re.DOTALL)
_SET_OPERATORS = ("--", "&&", "~~", "||")


class _Unsupported(Exception):
    pass


def usable(pattern: str) -> str | None:
    """Return the pattern with plain groups, or None if a grammar cannot express it."""
    if len(pattern) > MAX_LENGTH:
        return None
    try:
        scanner = _Scanner(pattern)
        scanner.alternatives(0)
        scanner.require_end()
        result = "".join(scanner.out)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(result)
    except (_Unsupported, re.error, Warning, OverflowError, RecursionError):
        return None
    return result


class _Scanner:
    """Reads one expression from left to right. Each method returns the states that its part needs."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0
        self.out: list[str] = []

    def require_end(self) -> None:
        if self.position < len(self.pattern):
            _refuse()

    def alternatives(self, depth: int) -> int:
        if depth > 20:
            _refuse()
        total, first = 0, True
        while (char := self._peek()) not in ("", ")"):
            if char == "^" and not first:
                _refuse()
            if char in "^|":
                self._take(1)
                first = char == "|"
            elif char == "$":
                self._take(1)
                if self._peek() not in ("", "|", ")"):
                    _refuse()
            else:
                total += self._repeated(self._atom(depth))
                first = False
            if total > MAX_STATES:
                _refuse()
        return total

    def _atom(self, depth: int) -> int:
        char = self._peek()
        if char == "(":
            return self._group(depth)
        if char == "[":
            return self._set()
        if char in "*+?{}":
            _refuse()
        if char == "\\":
            self._escape()
        else:
            self._take(1)
        return 1

    def _group(self, depth: int) -> int:
        self._take(1)
        if self._peek() == "?":
            self._group_kind()
        states = self.alternatives(depth + 1)
        if self._peek() != ")":
            _refuse()
        self._take(1)
        return states

    def _group_kind(self) -> None:
        """Leave the mark of the group out: xgrammar misreads `(?::`."""
        kind = _GROUP_KIND.match(self.pattern, self.position)
        if kind is None:
            _refuse()
        self.position = kind.end()

    def _set(self) -> int:
        self._take(1)
        if self._peek() == "^":
            self._take(1)
        if self._peek() in ("]", ""):
            _refuse()
        while (char := self._peek()) != "]":
            if char in ("", "[") or self.pattern.startswith(_SET_OPERATORS, self.position):
                _refuse()
            if char == "\\":
                self._escape()
            else:
                self._take(1)
        self._take(1)
        return 1

    def _escape(self) -> None:
        escape = _ESCAPE.match(self.pattern, self.position)
        if escape is None:
            _refuse()
        text = escape.group()
        self.position = escape.end()
        self.out.append(text[1:] if text in ("\\<", "\\>") else text)

    def _repeated(self, states: int) -> int:
        char = self._peek()
        if char in ("*", "+", "?"):
            self._take(1)
        elif char == "{":
            repeat = _REPEAT.match(self.pattern, self.position)
            if repeat is None:
                _refuse()
            self._take(repeat.end() - self.position)
            states *= max(int(repeat[1]), int(repeat[3] or 0), 1)
        if self._peek() in ("*", "+", "?", "{") and char in ("*", "+", "?", "{"):
            _refuse()
        return states

    def _peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def _take(self, count: int) -> None:
        self.out.append(self.pattern[self.position : self.position + count])
        self.position += count


def _refuse() -> NoReturn:
    raise _Unsupported

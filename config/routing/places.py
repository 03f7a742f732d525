"""Places in a routing file and its includes, and the problems found there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted

Path = tuple[str | int, ...]
"""Keys and list indices from the top to a value."""

Branch = dict[str | int | None, "int | Branch | EntryPlaces"]
"""Places of keys and items. One with more below it is a branch, which has its own place under None.

A place is one number: the garbage collector visits objects, and a large table has tens of thousands of places.
"""
EntryPlaces = tuple[int, Branch]
"""The place of a model's key, and those below it. Their lines count from the key's line, so that they stay true when
the entry moves."""


class Place(NamedTuple):
    """Line and column count from 1; line 0 is the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def exact(self) -> str:
        """FILE:LINE:COL, to which editors and terminals can jump."""
        return f"{self}:{self.column}" if self.line else self.file

    def beside(self, other: Place) -> str:
        """Describe this place in a message about another: "line 3", or "teams.yaml:3" in another file."""
        return f"line {self.line}" if self.file == other.file else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """`message` reads "what is wrong; what to do"."""

    place: Place
    key: str
    message: str

    @property
    def file(self) -> str:
        return self.place.file

    @property
    def line(self) -> int:
        return self.place.line

    @property
    def column(self) -> int:
        return self.place.column

    def __str__(self) -> str:
        """Return "FILE:LINE:COL: key: what is wrong; what to do"."""
        place = self.place.exact
        text = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        return printable(redacted(shortened(text, 3 * LONGEST)))


class InvalidYaml(Exception):
    """A file that cannot be read as YAML."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


LONGEST = 1000
"""Characters of a message, which may quote a key or a name of any length."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """Leave out the middle of a long text: a message ends with its cure."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 4 :]}"


def dotted(path: Path) -> str:
    """Write a path such as models.llama3.2.serve[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text

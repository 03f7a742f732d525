"""The routing table: the entries of a routing file, and where they are written.

`load` reads it from YAML and reports all problems of a file together. It imports the reader, which most processes start
without.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry
    from vllama_pool.config.routing.schema import RoutingFile, WorkerEntry
    from vllama_pool.config.routing.yaml_document import Problem

DEFAULT_FILE = Path(__file__).parents[1] / "routing.yaml"
"""The commented default: an empty table."""

LEAST_LOAD = "least-load"

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top to a value."""


class Place(NamedTuple):
    """Line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _no_entries() -> RoutingFile:
    from vllama_pool.config.routing.schema import RoutingFile

    return RoutingFile()


def _no_places() -> Mapping[KeyPath, Place]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RoutingTable:
    entries: RoutingFile = field(default_factory=_no_entries)
    places: Mapping[KeyPath, Place] = field(default_factory=_no_places, compare=False)
    """Of each key and list item."""
    revision: str = field(default="", compare=False)
    """12 hex digits of the SHA-256 over all files; "" for a table without a file."""
    files: tuple[Path, ...] = field(default=(), compare=False)
    """The file and those that it includes."""

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        return self.entries.models or {}

    @property
    def workers(self) -> tuple[WorkerEntry, ...]:
        return self.entries.workers or ()


class RoutingError(Exception):
    """An invalid routing file.

    `str()` has one line per problem, in file order: "FILE:LINE:COL: key: what is wrong; what to do".
    """

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(problem.located(file) for problem in self.problems))


def load(path: Path) -> RoutingTable:
    """Read a routing file. Raises RoutingError, also if the file cannot be read."""
    from vllama_pool.config.routing.yaml_document import MAX_BYTES, Problem

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RoutingError(str(path), [Problem(0, 0, "", "not a file; name a YAML file")])
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise RoutingError(str(path), [Problem(0, 0, "", f"{why}; name a readable file")]) from None
    return parse(data, str(path))


def parse(data: bytes, file: str = "routing.yaml") -> RoutingTable:
    """Parse a file's bytes; `file` is for messages. Raises RoutingError."""
    from pydantic import ValidationError

    from vllama_pool.config.routing import checks, messages, yaml_document
    from vllama_pool.config.routing.schema import RoutingFile

    document = yaml_document.parse(data)
    if document.value is None:
        document.value = {}
    problems = list(document.problems)
    entries = None
    if isinstance(document.value, dict):
        document.value = {key: value for key, value in document.value.items() if not key.startswith("x-")}
    try:
        entries = RoutingFile.model_validate(document.value)
    except ValidationError as error:
        problems += [messages.problem_for(item, document) for item in error.errors(include_url=False)]
    if isinstance(document.value, dict):
        problems += checks.find_conflicts(document)
    if problems or entries is None:
        raise RoutingError(file, problems)
    places = {path: Place(file, position.line, position.column) for path, position in document.keys.items()}
    return RoutingTable(entries, places, hashlib.sha256(data).hexdigest()[:12], (Path(file),))

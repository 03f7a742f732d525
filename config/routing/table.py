"""The routing table: the entries of a routing file, and where they are written.

`load` reads it from YAML and reports all problems of a file together. It imports the reader, which most processes start
without.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vllama_pool.config.routing.places import Path as KeyPath
from vllama_pool.config.routing.places import Place, Problem

if TYPE_CHECKING:
    from vllama_pool.config.routing.includes import Reading
    from vllama_pool.config.routing.known_entries import KnownText
    from vllama_pool.config.routing.model_entry import ModelEntry
    from vllama_pool.config.routing.schema import RoutingFile, WorkerEntry
    from vllama_pool.config.routing.yaml_document import Document

__all__ = ["DEFAULT_FILE", "LEAST_LOAD", "KeyPath", "Place", "Problem", "RoutingError", "RoutingTable", "load", "parse"]

DEFAULT_FILE = Path(__file__).parents[1] / "routing.yaml"
"""The commented default: an empty table."""

LEAST_LOAD = "least-load"

STATIC = "static/"
"""Prefix of the ids of workers in the file, which registered ones cannot have."""


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
    """The file, and those that it includes."""
    patterns: tuple[str, ...] = field(default=(), compare=False)
    """Absolute glob patterns of its includes: further files may come to match them."""
    known: Mapping[str, KnownText] = field(default_factory=dict, compare=False, repr=False)
    """Entries that the next reading of a file may keep, by the file."""

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        return self.entries.models or {}

    @property
    def workers(self) -> tuple[WorkerEntry, ...]:
        return self.entries.workers or ()


class RoutingError(Exception):
    """An invalid routing file.

    `str()` has one line per problem, in the order of their places: "FILE:LINE:COL: key: what is wrong; what to do".
    """

    def __init__(
        self,
        file: str,
        problems: Sequence[Problem],
        *,
        files: tuple[Path, ...] = (),
        patterns: tuple[str, ...] = (),
        revision: str = "",
    ) -> None:
        self.file = file
        order = {file: -1}  # the file itself comes first, then its includes
        for path in files:
            order.setdefault(str(path), len(order))
        self.problems = tuple(sorted(set(problems), key=lambda each: (order.get(each.place.file, -1), each)))
        self.files = files
        """As in RoutingTable, with missing ones. A change of one of them may solve the problem."""
        self.patterns = patterns
        self.revision = revision
        super().__init__("\n".join(map(str, self.problems)))


def load(
    path: Path, environment: Mapping[str, str] | None = None, *, previous: RoutingTable | None = None
) -> RoutingTable:
    """Read a routing file and its includes. Raises RoutingError, also if the file cannot be read.

    `environment` has the values of `${NAME}`; left out, it is the environment of the process. `previous`: a table whose
    entries are kept where their text is unchanged. The result is the same as without it.
    """
    from vllama_pool.config.routing import includes

    environment = os.environ if environment is None else environment
    with _without_collections():
        if previous is not None and previous.known:
            table = _changed_table(path, environment, previous)
            if table is not None:
                return table
        return _table(includes.read(path, environment))


def _changed_table(path: Path, environment: Mapping[str, str], previous: RoutingTable) -> RoutingTable | None:
    """Return None for files that are to be read as a whole, among them all that have problems."""
    from vllama_pool.config.routing import includes
    from vllama_pool.config.routing.known_entries import NotKnown

    try:
        return _table(includes.read(path, environment, previous.known))
    except (NotKnown, RoutingError):
        return None


def parse(data: bytes, file: str = "routing.yaml", environment: Mapping[str, str] | None = None) -> RoutingTable:
    """Parse a file's bytes, without its includes; `file` is for messages. Raises RoutingError."""
    from vllama_pool.config.routing import yaml_document
    from vllama_pool.config.routing.includes import Reading

    document = yaml_document.parse(data, file, environment or {})
    if document.node(("include",)) is not None:
        message = "needs the folder of a file; load one"
        document.problems.append(Problem(document.key_place(("include",)), "include", message))
    return _table(Reading(document, (Path(file),), (), hashlib.sha256(data).hexdigest()[:12]))


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the garbage collector, which would walk the growing tree of a large file again and again.

    At the end, what is left is walked once and becomes old. Otherwise it would be walked twice, the second time with
    what is made of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.collect(1)
            gc.enable()


def _table(reading: Reading) -> RoutingTable:
    from pydantic import ValidationError

    from vllama_pool.config.routing import checks, messages
    from vllama_pool.config.routing.known_entries import known_text
    from vllama_pool.config.routing.yaml_document import MAX_PROBLEMS
    from vllama_pool.config.routing.yaml_places import Places

    document = reading.document
    value = document.value if document.value is not None else {}
    problems: list[Problem] = []
    entries = None
    try:
        entries = _validated(document, value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems += [messages.problem_for(each, document) for each in errors[:MAX_PROBLEMS]]
    if isinstance(document.value, dict):
        problems += islice(checks.find_conflicts(document), MAX_PROBLEMS)
    unread = {problem.place for problem in document.problems}
    problems = [*document.problems, *(problem for problem in problems if problem.place not in unread)]
    if problems or entries is None:
        hidden = [messages.without_values(problem, document.variables) for problem in problems]
        raise RoutingError(
            document.file, hidden, files=reading.files, patterns=reading.patterns, revision=reading.revision
        )
    places = Places(document.root)
    known = {
        each.file: text
        for each in reading.documents
        if (text := known_text(each.text, each.root, entries.models or {}, places)) is not None
    }
    return RoutingTable(entries, places, reading.revision, reading.files, reading.patterns, known)


def _validated(document: Document, value: Any) -> RoutingFile:
    """Validate the values but those of known entries. Raises ValidationError."""
    from vllama_pool.config.routing.schema import RoutingFile
    from vllama_pool.config.routing.yaml_nodes import KnownEntry
    from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode

    node = document.node(("models",))
    models = node.items if isinstance(node, MappingNode) else {}
    known = {name: each.model for name, each in models.items() if isinstance(each, KnownEntry)}
    if not known:
        return RoutingFile.model_validate(value)
    unknown = {name: each.value for name, each in models.items() if name not in known}
    entries = RoutingFile.model_validate({**value, "models": unknown})
    read = entries.models or {}
    return entries.model_copy(update={"models": {name: known.get(name) or read[name] for name in models}})

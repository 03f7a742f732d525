"""Reads a routing file and the files that it includes, as one document."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from types import MappingProxyType

from vllama_pool.config.routing import yaml_document
from vllama_pool.config.routing.include_paths import IncludeFolder, InvalidInclude
from vllama_pool.config.routing.kinds import kind
from vllama_pool.config.routing.known_entries import KnownText
from vllama_pool.config.routing.places import Path, Place, Problem, dotted
from vllama_pool.config.routing.sections import unite
from vllama_pool.config.routing.yaml_document import MAX_BYTES, Document
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode
from vllama_pool.config.routing.yaml_nodes import Scalar, Sequence

MAX_FILES = 200
NOTHING_KNOWN: Mapping[str, KnownText] = MappingProxyType({})
_TRIES = 3


@dataclass(slots=True)
class Reading:
    document: Document
    files: tuple[FilePath, ...]
    """Missing ones too."""
    patterns: tuple[str, ...]
    """Absolute patterns of includes."""
    revision: str
    """12 hex digits of the SHA-256 over all files."""
    documents: tuple[Document, ...] = ()
    """Of each file that could be read."""


def read(first: FilePath, environment: Mapping[str, str], known: Mapping[str, KnownText] = NOTHING_KNOWN) -> Reading:
    """Read a file and its includes; problems are in the document. Files that change meanwhile are read again.

    `known`: entries that need not be read again, by their file. Raises NotKnown, if there are such.
    """
    for _ in range(_TRIES):
        reader = _Reader(first, environment, known)
        reader.read()
        if reader.is_current():
            break
    return reader.reading()


class _Unreadable(Exception):
    """`str()` reads "what is wrong; what to do"."""


@dataclass(frozen=True, slots=True)
class _Include:
    """One item of an `include`."""

    item: Scalar
    key: Path
    base: str
    """The folder of the file that has it."""
    chain: tuple[str, ...]
    """Real paths from the first file to that file."""


@dataclass(slots=True)
class _Reader:
    _first: FilePath
    _environment: Mapping[str, str]
    _known: Mapping[str, KnownText]
    _document: Document = field(init=False)
    _folder: IncludeFolder = field(init=False)
    _contents: list[bytes] = field(default_factory=list)
    _documents: list[Document] = field(default_factory=list)
    _signatures: dict[str, object] = field(default_factory=dict)
    """Files and their state when they were read."""
    _patterns: list[str] = field(default_factory=list)
    _included: dict[str, Place] = field(default_factory=dict)
    """Real path -> the place of its include."""

    def __post_init__(self) -> None:
        self._document = Document(str(self._first))
        self._folder = IncludeFolder(str(self._first))

    def read(self) -> None:
        path = os.path.abspath(self._first)
        real = os.path.realpath(path)
        self._included[real] = Place(str(self._first))
        try:
            self._document = self._parse(path)
        except _Unreadable as error:
            self._document.problems.append(Problem(Place(str(self._first)), "", str(error)))
        self._include_all(self._document, path, (real,))

    def is_current(self) -> bool:
        return all(_signature(path) == signature for path, signature in self._signatures.items())

    def reading(self) -> Reading:
        digest = hashlib.sha256(b"\0".join(self._contents)).hexdigest()
        files = tuple(FilePath(self._shown(path)) for path in self._signatures)
        return Reading(self._document, files, tuple(self._patterns), digest[:12], tuple(self._documents))

    def _include_all(self, document: Document, path: str, chain: tuple[str, ...]) -> None:
        listed = document.node(("include",))
        for i, item in enumerate(listed.nodes if isinstance(listed, Sequence) else ()):
            if isinstance(item, Scalar) and isinstance(item.value, str):
                self._include(_Include(item, ("include", i), os.path.dirname(path), chain))

    def _include(self, include: _Include) -> None:
        if include.item.source:
            self._add_problem(include, "has a variable, which may not choose files; write the name")
            return
        try:
            matches = self._folder.find(include.item.value, include.base)
        except InvalidInclude as error:
            self._add_problem(include, str(error))
            return
        self._patterns += matches.patterns
        new = {os.path.realpath(path) for path in matches.files} - self._included.keys()
        if len(self._included) + len(new) > MAX_FILES:
            self._add_problem(include, f"more than {MAX_FILES} files with this include; include fewer")
            return
        for path in matches.files:
            if not (matches.patterns and os.path.realpath(path) in self._included):
                self._include_file(path, include)

    def _include_file(self, path: str, include: _Include) -> None:
        if not path.isprintable():
            self._add_problem(include, f"the name {self._shown(path)!a} is not plain text; rename the file")
            return
        real = os.path.realpath(path)
        if real in self._included:
            self._add_problem(include, self._twice(path, real, include))
            return
        try:
            document = self._included_document(path, real, include)
        except (InvalidInclude, _Unreadable) as error:
            self._add_problem(include, f"{self._shown(path)}: {error}")
            return
        self._unite(document)
        self._include_all(document, path, (*include.chain, real))

    def _included_document(self, path: str, real: str, include: _Include) -> Document:
        self._folder.check_links(path)
        self._included[real] = include.item.place
        return self._parse(path)

    def _unite(self, document: Document) -> None:
        mine, root = self._document, document.root
        mine.problems += document.problems
        mine.variables.update(document.variables)
        if root is None or (isinstance(root, Scalar) and root.value is None):
            return
        if not isinstance(root, MappingNode):
            message = f"expected a mapping with sections such as models, got {kind(root.value)}; correct it"
            mine.problems.append(Problem(root.place, "", message))
        elif isinstance(mine.root, MappingNode):
            mine.root, problems = unite(mine.root, root)
            mine.problems += problems

    def _twice(self, path: str, real: str, include: _Include) -> str:
        if real in include.chain:
            circle = [*include.chain[include.chain.index(real) :], real]
            return f"a circle of includes, {' -> '.join(map(os.path.basename, circle))}; remove one of them"
        return f"{self._shown(path)} is included in {self._included[real].beside(include.item.place)}; keep one of them"

    def _parse(self, path: str) -> Document:
        data = self._bytes(path)
        self._contents.append(data)
        shown = self._shown(path)
        document = yaml_document.parse(data, shown, self._environment, known=self._known.get(shown))
        self._documents.append(replace(document))  # the first one's tree is united with those of the others
        return document

    def _bytes(self, path: str) -> bytes:
        self._signatures[path] = _signature(path)
        left = MAX_BYTES - sum(map(len, self._contents))
        data = _file_bytes(path, left + 1)
        if len(data) > left:
            raise _Unreadable(f"larger than {MAX_BYTES >> 20} MiB, with its includes; make it smaller")
        return data

    def _shown(self, path: str) -> str:
        return str(self._first.parent / os.path.relpath(path, self._folder.path))

    def _add_problem(self, include: _Include, message: str) -> None:
        self._document.problems.append(Problem(include.item.place, dotted(include.key), message))


def _file_bytes(path: str, limit: int) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _Unreadable("not a file; name a YAML file")
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise _Unreadable(f"{error.strerror or 'cannot be read'}; name a readable file") from None


def _signature(path: str) -> object:
    """Return what changes when a file is written or replaced."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns

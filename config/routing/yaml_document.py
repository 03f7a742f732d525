"""Parses YAML into plain values with positions, so that problems have line and column.

Scalars have the values of YAML 1.2 (`yaml_scalars.py`). Tags, which would construct other objects, and keys that are
not text are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted
from vllama_pool.config.routing import yaml_scalars

MAX_BYTES = 1 << 19
MAX_DEPTH = 16
MAX_VALUES = 100_000
"""Counted after the expansion of anchors, which can turn a few lines into gigabytes."""

Path = tuple[str | int, ...]
"""Keys and list indices from the top to a value."""

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """`message` reads "what is wrong; what to do". Line and column count from 1; line 0 is the whole file."""

    line: int
    column: int
    key: str
    message: str

    def located(self, file: str) -> str:
        """Return "FILE:LINE:COL: key: what is wrong; what to do", which editors and terminals can jump to."""
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        text = redacted(f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}")
        return printable(text)  # one line, whatever it quotes


@dataclass(frozen=True, slots=True)
class Position:
    line: int
    column: int


@dataclass(slots=True)
class Document:
    value: Any = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def key_position(self, path: Path) -> Position:
        """Return the position of a key or list item, else of the nearest enclosing value."""
        while path:
            if path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return Position(1, 1)

    def value_position(self, path: Path) -> Position:
        """Return the position of a value, else of the nearest enclosing one."""
        return self.values[path] if path in self.values else self.key_position(path)


def dotted(path: Path) -> str:
    """Write a path such as models.llama3.2.serve[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(data: bytes) -> Document:
    """Parse one YAML document. Problems are in `problems`; nothing is raised."""
    document = Document()
    if len(data) > MAX_BYTES:
        document.problems.append(Problem(0, 0, "", f"larger than {MAX_BYTES >> 10} KiB; make it smaller"))
        return document
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _line_and_column(data[: error.start].decode("utf-8-sig", "replace"))
        document.problems.append(Problem(line, column, "", "not UTF-8 text; save the file as UTF-8"))
        return document
    try:
        root = _compose(text)
    except yaml.YAMLError as error:
        document.problems.append(_syntax(error, text))
        return document
    if root is not None:
        document.value = _Reader(document).value(root, (), 0)
    return document


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2, and refuses deep nesting before it exhausts the stack."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        None: [(_TAG + kind, form) for kind, form in yaml_scalars.FORMS.items()],
        "<": [(_TAG + "merge", re.compile(r"<<\Z"))],
    }
    depth = 0

    def scan_to_next_token(self) -> None:
        """Skip tabs between tokens, as JSON is often indented with them. A tab that indents a block stays an error."""
        super().scan_to_next_token()
        while self._blank_tabs():
            while self.peek() in (" ", "\t"):
                self.forward()
            super().scan_to_next_token()

    def _blank_tabs(self) -> bool:
        if self.peek() != "\t":
            return False
        if self.flow_level or self.buffer[self.pointer - self.column : self.pointer].strip(" "):
            return True
        end = self.pointer
        while self.buffer[end] in " \t":
            end += 1
        return self.buffer[end] in "#\r\n\0"  # a line without content

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _too_deep(), mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep; write it flatter"


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line, column = _line_and_column(text[: error.position])
        nul = "\0" in text[error.position : error.position + 1]
        return Problem(line, column, "", _NUL if nul else "a control character; remove it")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem(1, 1, "", f"not YAML: {error}; correct it")
    mark = error.problem_mark
    message = error.problem or "not YAML"
    if "'\\t'" in message:
        message = "a tab; indent with spaces"
    elif "but found another document" in message:
        message = "a second document begins; keep one document in a file"
    elif "mapping values are not allowed" in message:
        message = "unexpected ':'; check the indentation, or put the text in quotes"
    elif ";" not in message:
        message = f"not YAML: {message}; check the indentation and the quotes"
    return Problem(mark.line + 1, mark.column + 1, "", message)


_NUL = "a NUL character; save the file as UTF-8, or remove it"
_NOUNS = {"null": "null", "bool": "truth value", "int": "number", "float": "number"}


class _LimitExceeded(Exception):
    pass


class _Reader:
    """Converts nodes to plain values and records their positions."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        try:
            return self._value(node, path, depth)
        except _LimitExceeded as error:
            self._add_problem(node, path, str(error))
            return None

    def _value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _LimitExceeded(f"more than {MAX_VALUES} values; use fewer anchors")
        if depth > MAX_DEPTH:
            raise _LimitExceeded(_too_deep())
        self._document.values[path] = _position(node)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            self._refuse_tag(node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node, merged in self._pairs(node, path, 0):
            key = self._key(key_node, path)
            if key is None or (merged and key in values):
                continue
            at = (*path, key)
            if key in values and not merged:
                first = self._document.keys[at].line
                self._add_problem(key_node, at, f"written twice, first in line {first}; keep one of them")
                continue
            self._document.keys[at] = _position(key_node)
            values[key] = self._value(value_node, at, depth + 1)
        return values

    def _pairs(self, node: yaml.MappingNode, path: Path, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Yield a mapping's own pairs, then merged ones (`<<`), which they override."""
        if depth > MAX_DEPTH:
            raise _LimitExceeded(_too_deep())
        merges = [value for key, value in node.value if key.tag == _TAG + "merge"]
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                yield key, value, False
        for merge in merges:
            for source in merge.value if isinstance(merge, yaml.SequenceNode) else [merge]:
                if not isinstance(source, yaml.MappingNode):
                    self._add_problem(merge, path, "'<<' takes an anchored mapping; write '<<: *name'")
                    continue
                for key, value, _ in self._pairs(source, path, depth + 1):
                    yield key, value, True

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        key = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str):
            return key
        if isinstance(node, yaml.ScalarNode):
            message = f'the key {node.value} is read as {kind(key)}; put it in quotes: "{node.value}"'
        else:
            message = "a list or mapping cannot be a key; write text"
        self._add_problem(node, path, message)
        return None

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind_of = node.tag.removeprefix(_TAG)
        if kind_of == "str":
            return self._text(node, path)
        if kind_of not in yaml_scalars.FORMS:
            self._refuse_tag(node, path)
            return None
        try:
            return yaml_scalars.read(kind_of, node.value)
        except ValueError:
            self._add_problem(node, path, f"{node.value[:40]} is not a usable {_NOUNS[kind_of]}; write another")
            return None

    def _text(self, node: yaml.Node, path: Path) -> str:
        """Join escapes such as "\\ud83d\\ude00", which JSON has for one character."""
        text: str = node.value
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._add_problem(node, path, "has half of a surrogate pair; write the character itself")
            return text.encode("ascii", "replace").decode()

    def _refuse_tag(self, node: yaml.Node, path: Path) -> None:
        self._add_problem(node, path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported; remove it")

    def _add_problem(self, node: yaml.Node, path: Path, message: str) -> None:
        position = _position(node)
        self._document.problems.append(Problem(position.line, position.column, dotted(path), message))


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def kind(value: object) -> str:
    """Describe a value for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    if isinstance(value, int):
        return f"the number {value}" if abs(value) < 10**20 else "a number"
    if isinstance(value, float):
        return f"the number {value:g}" if math.isfinite(value) else "no finite number"
    if isinstance(value, str):
        value = redacted(value)
        return f"the text '{value if len(value) <= 40 else value[:37] + '...'}'"
    return "a list" if isinstance(value, list) else "a mapping"

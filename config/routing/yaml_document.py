"""Reads one YAML file into plain values with places, so that problems have line and column.

Scalars have the values of YAML 1.2 (`yaml_scalars.py`). Tags, which would construct other objects, and keys that are
not text are refused. Top-level keys that begin with `x-` are left out: they hold anchors and notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from vllama_pool.config.routing import variables, yaml_nodes, yaml_scalars
from vllama_pool.config.routing.kinds import kind
from vllama_pool.config.routing.known_entries import KnownText
from vllama_pool.config.routing.places import InvalidYaml, Path, Place, Problem, dotted
from vllama_pool.config.routing.yaml_nodes import Node, Scalar
from vllama_pool.config.routing.yaml_parser import (
    FASTEST,
    TolerantParser,
    may_be_tolerated,
    place_at,
    syntax_problem,
    unusable_character,
)

MAX_BYTES = 4 << 20
"""Of a file and its includes."""

MAX_PROBLEMS = 100

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
_TAG = "tag:yaml.org,2002:"
_NOUNS = {"null": "null", "bool": "truth value", "int": "number", "float": "number"}


@dataclass(slots=True)
class Document:
    file: str
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    text: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    """Values that came from the environment -> the texts in the file. Messages may show the latter only."""

    @property
    def value(self) -> Any:
        return self.root.value if self.root is not None else None

    def key_place(self, path: Path) -> Place:
        """Return the place of a key or list item, else of the nearest enclosing one."""
        node, place = self.root, Place(self.file, 1, 1)
        for part in path:
            child = child_of(node, part)
            if node is None or child is None:
                break
            place = node.keys[str(part)] if isinstance(node, yaml_nodes.Mapping) else child.place
            node = child
        return place if place.line > 1 or node is not self.root or node is None else node.place

    def value_place(self, path: Path) -> Place:
        """Return the place of a value, else of the nearest enclosing key."""
        node = self.node(path)
        return node.place if node is not None else self.key_place(path)

    def node(self, path: Path) -> Node | None:
        node = self.root
        for part in path:
            node = child_of(node, part)
        return node

    def source(self, path: Path) -> str:
        """Return a scalar's text as written, if a part of its value came from the environment."""
        node = self.node(path)
        return node.source if isinstance(node, Scalar) else ""


def child_of(node: Node | None, part: str | int) -> Node | None:
    if isinstance(node, yaml_nodes.Mapping) and isinstance(part, str):
        return node.items.get(part)
    if isinstance(node, yaml_nodes.Sequence) and isinstance(part, int):
        return node.nodes[part] if part < len(node.nodes) else None
    return None


def parse(
    data: bytes,
    file: str,
    environment: Mapping[str, str] = NO_VARIABLES,
    *,
    known: KnownText | None = None,
    parser: type[Any] = FASTEST,
) -> Document:
    """Parse one YAML document. Problems are in `problems`. Raises NotKnown, if `known` entries are given."""
    document = Document(file)
    try:
        text = document.text = _text(data, file)
        skipped = known.skip(text) if known is not None else None
        root = _compose(text if skipped is None else skipped.text, file, parser)
        if root is not None:
            _Reader(document, environment).read(root)
            document.root = root
        if skipped is not None:
            skipped.restore(root, file)
    except InvalidYaml as error:
        document.root = None
        document.problems.append(error.problem)
    return document


def _text(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidYaml(Problem(Place(file), "", f"larger than {MAX_BYTES >> 20} MiB; make it smaller"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        place = place_at(before, len(before), file)
        raise InvalidYaml(Problem(place, "", "not UTF-8 text; save the file as UTF-8")) from None


def _compose(text: str, file: str, parser: type[Any]) -> Node | None:
    problem = unusable_character(text, file)
    if problem:
        raise InvalidYaml(problem)
    try:
        return yaml_nodes.compose(parser(text), file)
    except yaml.YAMLError as error:
        if parser is TolerantParser or not may_be_tolerated(error, text):
            raise InvalidYaml(syntax_problem(error, text, file)) from None
    return _compose(text, file, TolerantParser)


class _Reader:
    """Converts nodes to plain values."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._plain_keys: set[str] = set()
        """Keys that were read: most come again."""
        self._left = yaml_nodes.MAX_VALUES
        self._expanded = MAX_BYTES

    def read(self, root: Node) -> None:
        self._value(root, (), 0)

    def _value(self, node: Node, path: Path, depth: int) -> Any:
        if node.is_read:  # through an alias before
            return node.value
        node.is_read = True
        self._spend(node, 1)
        if isinstance(node, Scalar):
            node.value = self._scalar(node, path)
            return node.value
        if depth > yaml_nodes.MAX_DEPTH:
            raise InvalidYaml(
                self._problem(node, path, f"nested more than {yaml_nodes.MAX_DEPTH} levels deep; write it flatter")
            )
        if node.tag is not None and node.tag not in (_TAG + "map", _TAG + "seq", "!"):
            self._refuse_tag(node, path)
        if isinstance(node, yaml_nodes.Mapping):
            self._mapping(node, path, depth)
        else:
            node.value = [self._value(item, (*path, i), depth + 1) for i, item in enumerate(node.nodes)]
            self._measure(node, path, node.nodes)
        return node.value

    def _mapping(self, node: yaml_nodes.Mapping, path: Path, depth: int) -> None:
        merges: list[tuple[Node, Node]] = []
        pairs = iter(node.nodes)
        for key_node, item in zip(pairs, pairs, strict=False):
            if _is_merge(key_node):
                merges.append((key_node, item))
            elif not path and isinstance(key_node, Scalar) and key_node.text.startswith("x-"):
                continue
            elif (key := self._key(key_node, path)) is not None and self._is_new(node, key, key_node, path):
                node.keys[key], node.items[key] = key_node.place, item
                node.value[key] = self._value(item, (*path, key), depth + 1)
        for key_node, _ in merges[1:]:
            self._add_problem(key_node, path, "'<<' is written twice; write '<<: [*a, *b]'")
        for source in self._merged(merges[0][1], path) if merges else ():
            self._merge(source, node, path, depth)
        self._measure(node, path, node.items.values())

    def _is_new(self, node: yaml_nodes.Mapping, key: str, key_node: Node, path: Path) -> bool:
        first = node.keys.get(key)
        if first is not None:
            message = f"written twice, first in {first.beside(key_node.place)}; keep one of them"
            self._add_problem(key_node, (*path, key), message)
        return first is None

    def _merged(self, merge: Node, path: Path) -> Iterator[yaml_nodes.Mapping]:
        for source in merge.nodes if isinstance(merge, yaml_nodes.Sequence) else [merge]:
            if isinstance(source, yaml_nodes.Mapping):
                yield source
            else:
                self._add_problem(merge, path, "'<<' takes an anchored mapping; write '<<: *name'")

    def _merge(self, source: yaml_nodes.Mapping, node: yaml_nodes.Mapping, path: Path, depth: int) -> None:
        """Add the keys of `source` that `node` has not."""
        self._value(source, path, depth + 1)
        self._spend(source, len(source.items))
        for key, item in source.items.items():
            if key not in node.items and not (not path and key.startswith("x-")):
                node.keys[key], node.items[key], node.value[key] = source.keys[key], item, item.value

    def _measure(self, node: yaml_nodes.Mapping | yaml_nodes.Sequence, path: Path, items: Any) -> None:
        node.size = 1 + sum(1 if isinstance(item, Scalar) else item.size for item in items)
        if node.size > yaml_nodes.MAX_VALUES:
            raise InvalidYaml(self._problem(node, path, yaml_nodes.TOO_MANY))

    def _spend(self, node: Node, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InvalidYaml(self._problem(node, (), yaml_nodes.TOO_MANY))

    def _key(self, node: Node, path: Path) -> str | None:
        if not isinstance(node, Scalar):
            self._add_problem(node, path, "a list or mapping cannot be a key; write text")
            return None
        if node.plain and node.tag is None and node.text in self._plain_keys:
            return node.text
        if variables.has_variables(node.text):
            self._add_problem(
                node, path, f"the key {node.text} has a variable, which only values may have; write its name"
            )
            return None
        if node.plain and not node.text.isascii() and node.text != node.text.strip():
            self._add_problem(node, path, f"the key '{node.text}' has no-break spaces around it; write plain spaces")
            return None
        key = (
            self._resolved(node, node.text, path)
            if node.plain and node.tag is None
            else self._typed(node, node.text, path)
        )
        if isinstance(key, str):
            if node.plain and node.tag is None:
                self._plain_keys.add(key)
            return key
        self._add_problem(node, path, f'the key {node.text} is read as {kind(key)}; put it in quotes: "{node.text}"')
        return None

    def _scalar(self, node: Scalar, path: Path) -> Any:
        text: str | None = node.text
        if "${" in node.text:
            text = self._expand(node, path)
        if text is None:
            return None
        plain = node.plain and (text is node.text or variables.is_variable(node.text))
        if node.tag is not None or not plain:
            return self._typed(node, text, path)
        return self._resolved(node, text, path)

    def _resolved(self, node: Scalar, text: str, path: Path) -> Any:
        try:
            return yaml_scalars.resolve(text)
        except ValueError:
            return self._unusable(node, "int", path)

    def _typed(self, node: Scalar, text: str, path: Path) -> Any:
        """Return the value of a scalar in quotes or with a tag."""
        name = "str" if node.tag in (None, "!") else (node.tag or "").removeprefix(_TAG)
        if name == "str":
            return self._joined(node, text, path)
        if name not in yaml_scalars.FORMS:
            self._refuse_tag(node, path)
            return None
        try:
            return yaml_scalars.read(name, text)
        except ValueError:
            return self._unusable(node, name, path)

    def _unusable(self, node: Scalar, name: str, path: Path) -> None:
        shown = node.text if len(node.text) <= 40 else node.text[:37] + "..."
        self._add_problem(node, path, f"{shown} is not a usable {_NOUNS[name]}; write another")

    def _expand(self, node: Scalar, path: Path) -> str | None:
        try:
            text = variables.expand(node.text, self._environment)
        except variables.InvalidVariable as error:
            self._add_problem(node, path, str(error))
            return None
        self._expanded -= len(text)
        if self._expanded < 0:
            raise InvalidYaml(self._problem(node, path, "the values of the variables are too long; shorten them"))
        node.source = node.text
        self._document.variables[text] = node.text
        return text

    def _joined(self, node: Scalar, text: str, path: Path) -> str:
        """Join escapes such as "\\ud83d\\ude00", which JSON has for one character."""
        if text.isascii():
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._add_problem(node, path, "has half of a surrogate pair; write the character itself")
            return text.encode("ascii", "replace").decode()

    def _refuse_tag(self, node: Node, path: Path) -> None:
        self._add_problem(node, path, f"the tag {(node.tag or '').replace(_TAG, '!!')} is not supported; remove it")

    def _add_problem(self, node: Node, path: Path, message: str) -> None:
        self._document.problems.append(self._problem(node, path, message))
        if len(self._document.problems) >= MAX_PROBLEMS:
            raise InvalidYaml(self._problem(node, (), f"more than {MAX_PROBLEMS} problems; correct the first ones"))

    def _problem(self, node: Node, path: Path, message: str) -> Problem:
        return Problem(node.place, dotted(path), message)


def _is_merge(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.tag is None and node.text == "<<"

"""Builds a tree of nodes with their places from YAML's events, without recursion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from vllama_pool.config.routing.places import Branch, InvalidYaml, Place, Problem
from vllama_pool.config.routing.yaml_parser import EventParser

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry

MAX_DEPTH = 64
MAX_VALUES = 500_000
"""Counted with keys, and again after the expansion of anchors, which can turn a few lines into gigabytes."""
TOO_MANY = f"more than {MAX_VALUES} values; use fewer anchors, or make the file smaller"


@dataclass(slots=True, eq=False)
class Scalar:
    place: Place
    text: str
    tag: str | None = None
    plain: bool = True
    """Without quotes."""
    value: Any = None
    """Set by the reader, as are all fields below."""
    source: str = ""
    """The text as written, if a part of the value came from the environment."""
    is_read: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    place: Place
    tag: str | None = None
    nodes: list[Node] = field(default_factory=list)
    value: list[Any] = field(default_factory=list)
    size: int = 1
    """Values in it, with itself and after the expansion of aliases."""
    is_read: bool = False


@dataclass(slots=True, eq=False)
class Mapping:
    place: Place
    tag: str | None = None
    nodes: list[Node] = field(default_factory=list)
    """Keys and values in turn."""
    value: dict[str, Any] = field(default_factory=dict)
    items: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    size: int = 1
    is_read: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class KnownEntry(Mapping):
    """A model's entry that was read and validated before, from the same text. It has neither nodes nor a place."""

    name: str
    model: ModelEntry
    places: Branch
    """Below its key; they do not depend on the entry's own place."""
    has_alias: bool
    """It may refer to anchors above the models."""


Node = Scalar | Sequence | Mapping


def compose(parser: EventParser, file: str) -> Node | None:
    """Return the document's top node. Raises InvalidYaml, and YAMLError for syntax."""
    composer = _Composer(file)
    next_event, handler_of = parser.get_event, _HANDLERS.get
    while (event := next_event()) is not None:
        handler = handler_of(type(event))
        if handler is not None:
            handler(composer, event)
    return composer.root


class _Composer:
    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[Sequence | Mapping] = []
        self._anchors: dict[str, tuple[Node, Place]] = {}
        self._count = self._documents = 0

    def scalar(self, event: yaml.ScalarEvent) -> None:
        node = Scalar(self._place(event), event.value, event.tag, not event.style)
        if event.anchor is not None:
            self._set_anchor(event.anchor, node)
        self._append(node)

    def mapping(self, event: yaml.MappingStartEvent) -> None:
        self._begin(Mapping(self._place(event), event.tag), event)

    def sequence(self, event: yaml.SequenceStartEvent) -> None:
        self._begin(Sequence(self._place(event), event.tag), event)

    def _begin(self, node: Sequence | Mapping, event: yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._set_anchor(event.anchor, node)
        self._append(node)
        self._open.append(node)
        if len(self._open) > MAX_DEPTH:
            raise self._invalid(event, f"nested more than {MAX_DEPTH} levels deep; write it flatter")

    def end(self, event: yaml.Event) -> None:
        self._open.pop()

    def alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor
        node, _ = self._anchors.get(name or "", (None, None))
        if node is None:
            raise self._invalid(event, f"no anchor '&{name}' above it in this file; add it, or put the text in quotes")
        if node in self._open:
            raise self._invalid(event, f"the alias '*{name}' is inside its own anchor, without end; remove it")
        self._append(node)

    def document(self, event: yaml.Event) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._invalid(event, "a second document begins; keep one document in a file")

    def _append(self, node: Node) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            raise InvalidYaml(Problem(node.place, "", TOO_MANY))
        if self._open:
            self._open[-1].nodes.append(node)
        else:
            self.root = node

    def _set_anchor(self, name: str, node: Node) -> None:
        if name in self._anchors:
            first = self._anchors[name][1]
            message = f"the anchor '&{name}' is also set in {first.beside(node.place)}; rename one of them"
            raise InvalidYaml(Problem(node.place, "", message))
        self._anchors[name] = (node, node.place)

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        return Place(self._file, mark.line + 1, mark.column + 1) if mark else Place(self._file)

    def _invalid(self, event: yaml.Event, message: str) -> InvalidYaml:
        return InvalidYaml(Problem(self._place(event), "", message))


_HANDLERS: dict[type[yaml.Event], Callable[[_Composer, Any], None]] = {
    yaml.ScalarEvent: _Composer.scalar,
    yaml.MappingStartEvent: _Composer.mapping,
    yaml.SequenceStartEvent: _Composer.sequence,
    yaml.MappingEndEvent: _Composer.end,
    yaml.SequenceEndEvent: _Composer.end,
    yaml.AliasEvent: _Composer.alias,
    yaml.DocumentStartEvent: _Composer.document,
}
"""Other events say nothing. Bound methods would hold the whole tree in a cycle."""

"""The places of a document's keys and list items, without its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.config.routing.places import Branch, EntryPlaces, Path, Place
from vllama_pool.config.routing.yaml_nodes import KnownEntry, Node, Scalar
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode

_BITS = 24
_MOST = (1 << _BITS) - 1
_ABOVE = 1 << 2 * _BITS
"""Marks a place that an alias leads to, above the entry. Its line counts from the top of the entry's file."""


class Places(Mapping[Path, Place]):
    """Finds a place by its path."""

    def __init__(self, root: Node | None) -> None:
        self._files: dict[str, int] = {}
        self._root: Branch = {}
        if isinstance(root, MappingNode):
            self._root.update({key: self._section(key, root.keys[key], child) for key, child in root.items.items()})
        self._names = tuple(self._files)

    def __getitem__(self, path: Path) -> Place:
        found: int | Branch | EntryPlaces = self._root
        key = 0
        for part in path:
            if isinstance(found, tuple):
                key, found = found
            if isinstance(found, int):
                raise KeyError(path)
            found = found[part]
        if isinstance(found, tuple):
            return self._place(found[0])
        packed = found if isinstance(found, int) else found[None]
        if not isinstance(packed, int):
            raise KeyError(path)
        return self._place(_absolute(packed, key) if key else packed)

    def __iter__(self) -> Iterator[Path]:
        return _paths(self._root, ())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def of_entry(self, name: str) -> Branch:
        """Return the places in a model's entry, which do not depend on the entry's own place."""
        models = self._root["models"]
        entry = models[name] if isinstance(models, dict) else None
        return entry[1] if isinstance(entry, tuple) else {}

    def _section(self, key: str, place: Place, node: Node) -> int | Branch:
        if key == "models" and isinstance(node, MappingNode):
            return self._entries(place, node)
        return self._with(place, node, 0)

    def _entries(self, place: Place, models: MappingNode) -> Branch:
        entries: Branch = {None: self._packed(place, 0)}
        for name, node in models.items.items():
            key = models.keys[name]
            below = node.places if isinstance(node, KnownEntry) else self._branch(node, key.line)
            entries[name] = self._packed(key, 0), below
        return entries

    def _branch(self, node: Node, base: int) -> Branch:
        """`base`: the line of the entry's key; 0 outside of entries."""
        if isinstance(node, MappingNode):
            return {key: self._with(node.keys[key], child, base) for key, child in node.items.items()}
        if isinstance(node, Scalar):
            return {}
        return {i: self._with(child.place, child, base) for i, child in enumerate(node.nodes)}

    def _with(self, place: Place, node: Node, base: int) -> int | Branch:
        packed = self._packed(place, base)
        return packed if isinstance(node, Scalar) else {None: packed, **self._branch(node, base)}

    def _packed(self, place: Place, base: int) -> int:
        line, column = min(place.line, _MOST), min(place.column, _MOST)
        if not base:
            above = self._files.setdefault(place.file, len(self._files))
        elif line >= base:
            above, line = 0, line - base
        else:
            above = 1
        return (above << _BITS | line) << _BITS | column

    def _place(self, packed: int) -> Place:
        return Place(self._names[packed >> 2 * _BITS], packed >> _BITS & _MOST, packed & _MOST)


def _absolute(packed: int, key: int) -> int:
    """Return the place within an entry as one in its file. `key`: the place of the entry's key."""
    if packed & _ABOVE:
        return (key >> 2 * _BITS << 2 * _BITS) + packed - _ABOVE
    return (key >> _BITS << _BITS) + packed


def _paths(branch: Branch, above: Path) -> Iterator[Path]:
    for part, found in branch.items():
        if part is not None:
            path = (*above, part)
            yield path
            below = found[1] if isinstance(found, tuple) else found
            if not isinstance(below, int):
                yield from _paths(below, path)

"""The places of a document's keys and list items, without its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.config.routing.places import Path, Place
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode
from vllama_pool.config.routing.yaml_nodes import Node, Scalar

_Branch = dict[str | int | None, "int | _Branch"]
"""Places of keys and items. One with more below it is a branch, which has its own place under None.

A place is one number: the garbage collector visits objects, and a large table has tens of thousands of places.
"""
_BITS = 24
_MOST = (1 << _BITS) - 1


class Places(Mapping[Path, Place]):
    """Finds a place by its path."""

    def __init__(self, root: Node | None) -> None:
        self._files: dict[str, int] = {}
        self._root = {} if root is None else self._branch(root)
        self._names = tuple(self._files)

    def __getitem__(self, path: Path) -> Place:
        found: int | _Branch = self._root
        for part in path:
            if isinstance(found, int):
                raise KeyError(path)
            found = found[part]
        packed = found if isinstance(found, int) else found[None]
        if not isinstance(packed, int):
            raise KeyError(path)
        return Place(self._names[packed >> 2 * _BITS], packed >> _BITS & _MOST, packed & _MOST)

    def __iter__(self) -> Iterator[Path]:
        return _paths(self._root, ())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _branch(self, node: Node) -> _Branch:
        if isinstance(node, MappingNode):
            return {key: self._with(node.keys[key], child) for key, child in node.items.items()}
        if isinstance(node, Scalar):
            return {}
        return {i: self._with(child.place, child) for i, child in enumerate(node.nodes)}

    def _with(self, place: Place, node: Node) -> int | _Branch:
        packed = self._packed(place)
        return packed if isinstance(node, Scalar) else {None: packed, **self._branch(node)}

    def _packed(self, place: Place) -> int:
        file = self._files.setdefault(place.file, len(self._files))
        return (file << _BITS | min(place.line, _MOST)) << _BITS | min(place.column, _MOST)


def _paths(branch: _Branch, above: Path) -> Iterator[Path]:
    for part, found in branch.items():
        if part is not None:
            path = (*above, part)
            yield path
            if not isinstance(found, int):
                yield from _paths(found, path)

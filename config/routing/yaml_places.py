"""The places of a document's keys and list items, without its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.config.routing.places import Path, Place
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode
from vllama_pool.config.routing.yaml_nodes import Node, Scalar

_Branch = dict[str | int | None, "Place | _Branch"]
"""Places of keys and items. One with more below it is a branch, which has its own place under None."""


class Places(Mapping[Path, Place]):
    """Finds a place by its path."""

    def __init__(self, root: Node | None) -> None:
        self._root = {} if root is None or isinstance(root, Scalar) else _branch(root)

    def __getitem__(self, path: Path) -> Place:
        found: Place | _Branch = self._root
        for part in path:
            if isinstance(found, Place):
                raise KeyError(path)
            found = found[part]
        return found if isinstance(found, Place) else _own(found)

    def __iter__(self) -> Iterator[Path]:
        return _paths(self._root, ())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _branch(node: Node) -> _Branch:
    if isinstance(node, MappingNode):
        return {key: _with(node.keys[key], child) for key, child in node.items.items()}
    if isinstance(node, Scalar):
        return {}
    return {i: _with(child.place, child) for i, child in enumerate(node.nodes)}


def _with(place: Place, node: Node) -> Place | _Branch:
    return place if isinstance(node, Scalar) else {None: place, **_branch(node)}


def _own(branch: _Branch) -> Place:
    place = branch[None]
    if not isinstance(place, Place):
        raise KeyError
    return place


def _paths(branch: _Branch, above: Path) -> Iterator[Path]:
    for part, below in branch.items():
        if part is not None:
            path = (*above, part)
            yield path
            yield from () if isinstance(below, Place) else _paths(below, path)

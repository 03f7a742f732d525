"""The places of a document's keys and list items, without its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.config.routing.places import Path, Place
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode
from vllama_pool.config.routing.yaml_nodes import Node, Scalar

_Branch = dict[str | int, tuple[Place, "_Branch | None"]]


class Places(Mapping[Path, Place]):
    """Finds a place by its path."""

    def __init__(self, root: Node | None) -> None:
        self._root = _branch(root) or {}

    def __getitem__(self, path: Path) -> Place:
        branch: _Branch | None = self._root
        place = None
        for part in path:
            if branch is None:
                raise KeyError(path)
            place, branch = branch[part]
        if place is None:
            raise KeyError(path)
        return place

    def __iter__(self) -> Iterator[Path]:
        return _paths(self._root, ())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _branch(node: Node | None) -> _Branch | None:
    if node is None or isinstance(node, Scalar):
        return None
    if isinstance(node, MappingNode):
        return {key: (node.keys[key], _branch(child)) for key, child in node.items.items()}
    return {i: (child.place, _branch(child)) for i, child in enumerate(node.nodes)}


def _paths(branch: _Branch, above: Path) -> Iterator[Path]:
    for part, (_, below) in branch.items():
        path = (*above, part)
        yield path
        yield from _paths(below or {}, path)

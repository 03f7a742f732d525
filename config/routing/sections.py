"""Unites the sections of a routing file with those of the files that it includes. Pure."""

from __future__ import annotations

from vllama_pool.config.routing.places import Problem, dotted
from vllama_pool.config.routing.yaml_nodes import Mapping, Node, Scalar, Sequence


def unite(first: Mapping, other: Mapping) -> tuple[Mapping, list[Problem]]:
    """Unite mappings and append lists. A name in both is a problem."""
    united, problems = _copy(first), []
    for section, node in other.items.items():
        mine = united.items.get(section)
        if mine is None or _is_empty(mine):
            _set(united, section, node, other)
        elif isinstance(mine, Mapping) and isinstance(node, Mapping):
            section_of_both, twice = _unite_names(section, mine, node)
            problems += twice
            _set(united, section, section_of_both, united)
        elif isinstance(mine, Sequence) and isinstance(node, Sequence):
            nodes, values = [*mine.nodes, *node.nodes], [*mine.value, *node.value]
            _set(united, section, Sequence(mine.place, nodes=nodes, value=values), united)
        elif not _is_empty(node):
            where = united.keys[section].beside(other.keys[section])
            problems.append(Problem(other.keys[section], section, f"also in {where}, in another form; keep one form"))
    return united, problems


def _unite_names(section: str, first: Mapping, other: Mapping) -> tuple[Mapping, list[Problem]]:
    united, problems = _copy(first), []
    for name, node in other.items.items():
        if name in united.items:
            where = united.keys[name].beside(other.keys[name])
            problems.append(Problem(other.keys[name], dotted((section, name)), f"also in {where}; keep one of them"))
        else:
            _set(united, name, node, other)
    return united, problems


def _copy(node: Mapping) -> Mapping:
    """Copy a mapping, but not what is in it: an alias may share it with another one."""
    return Mapping(node.place, value=dict(node.value), items=dict(node.items), keys=dict(node.keys))


def _set(united: Mapping, key: str, node: Node, source: Mapping) -> None:
    united.keys[key] = source.keys[key]
    united.items[key] = node
    united.value[key] = node.value


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None

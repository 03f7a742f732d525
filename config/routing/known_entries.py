"""Models' entries that need not be read again, because their text is what it was when the file was read before.

A reload usually changes a few entries of thousands. `KnownText.skip` takes the entries that it knows out of a text. The
rest is read as any file is, and `Skipped.restore` puts the known entries back where they were. Each run of them leaves
a mark, a key of its own: if YAML reads each mark as a key of the models, at its place, then it would have read the
entries so, too, whatever is around them. Any doubt raises NotKnown, and the whole text is then read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from vllama_pool.config.routing.places import Place
from vllama_pool.config.routing.yaml_nodes import MAX_VALUES, KnownEntry, Node
from vllama_pool.config.routing.yaml_nodes import Mapping as MappingNode

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import ModelEntry
    from vllama_pool.config.routing.yaml_places import Places

MODELS = "models"

_MODELS = re.compile(r"^models:[ \t]*(?:#.*)?\r?\n", re.MULTILINE)
_DEPENDS = re.compile(r"&|\$\{|\t|\\u|\r(?!\n)|[\x85\u2028\u2029]")
"""In an entry that is not kept: anchors and variables; what only the tolerant parser reads; line breaks that only YAML
counts."""
_ALIAS = "*"


class NotKnown(Exception):
    """The text is to be read as a whole."""


@dataclass(frozen=True, slots=True)
class KnownText:
    """The models of one file, in block style."""

    indent: int
    """Blanks in front of the models' names."""
    above: str
    """The text above the first model, which has the anchors that entries may refer to."""
    entries: Mapping[str, KnownEntry]
    """By their text, from the name to the next one."""

    def skip(self, text: str) -> Skipped | None:
        """Return the text without known entries; None if there are none."""
        starts = _starts(text, self.indent)
        if not starts:
            return None
        above = text[: starts[0]]
        rest, runs, is_open = [above], list[_Run](), False
        line = above.count("\n") + 1
        for start, end in pairwise(starts):
            part = text[start:end]
            entry, lines = self.entries.get(part), part.count("\n")
            if entry is None or (entry.has_alias and above != self.above):
                rest.append(part)
                is_open = False
            else:
                if not is_open:
                    rest.append(" " * self.indent + _mark(len(runs)) + ":")
                    runs.append(_Run(line, []))
                    is_open = True
                rest.append("\n" * lines)
                runs[-1].entries.append((entry, line))
            line += lines
        return Skipped("".join(rest) + text[starts[-1] :], self.indent, tuple(runs)) if runs else None


@dataclass(frozen=True, slots=True)
class _Run:
    """Known entries that follow each other, with their lines."""

    line: int
    entries: list[tuple[KnownEntry, int]]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A text without its known entries, whose lines are blank."""

    text: str
    indent: int
    runs: tuple[_Run, ...]

    def restore(self, root: Node | None, file: str) -> None:
        """Put the known entries into the tree of the text. Raises NotKnown."""
        models = root.items.get(MODELS) if isinstance(root, MappingNode) else None
        if not isinstance(root, MappingNode) or not isinstance(models, MappingNode):
            raise NotKnown
        runs = {_mark(number): run for number, run in enumerate(self.runs)}
        for mark, run in runs.items():
            if models.keys.get(mark) != Place(file, run.line, self.indent + 1) or models.value[mark] is not None:
                raise NotKnown
        united = MappingNode(models.place, size=models.size)
        for name, node in models.items.items():
            if name in runs:
                self._add(runs[name], united, file)
            else:
                _set(united, name, node, models.keys[name])
        number = len(models.items) + sum(len(run.entries) - 1 for run in self.runs)
        if len(united.items) != number or 3 * (root.size + united.size) > MAX_VALUES:  # keys and aliases count, too
            raise NotKnown
        root.items[MODELS], root.value[MODELS] = united, united.value

    def _add(self, run: _Run, united: MappingNode, file: str) -> None:
        for entry, line in run.entries:
            _set(united, entry.name, entry, Place(file, line, self.indent + 1))
            united.size += entry.size


def known_text(text: str, root: Node | None, entries: Mapping[str, ModelEntry], places: Places) -> KnownText | None:
    """Return what may be kept of a file that has no problems; None if it has no models in block style."""
    models = root.items.get(MODELS) if isinstance(root, MappingNode) else None
    if not isinstance(models, MappingNode) or not models.keys:
        return None
    keys = list(models.keys.values())
    indent = keys[0].column - 1
    starts = _starts(text, indent)
    if not starts:
        return None
    lines = [text.count("\n", 0, starts[0]) + 1]
    parts = [text[start:end] for start, end in pairwise(starts)]
    for part in parts:
        lines.append(lines[-1] + part.count("\n"))
    if [(place.line, place.column) for place in keys] != [(line, indent + 1) for line in lines[:-1]]:
        return None
    may_alias = not any("&" in part for part in parts)
    kept: dict[str, KnownEntry] = {}
    nothing = MappingNode(models.place)  # shared: the garbage collector visits each object
    for (name, node), part in zip(models.items.items(), parts[:-1], strict=False):  # the end of the last is not certain
        if isinstance(node, KnownEntry):
            kept[part] = node
        elif isinstance(node, MappingNode) and not _DEPENDS.search(part) and (may_alias or _ALIAS not in part):
            kept[part] = KnownEntry(
                place=nothing.place,
                nodes=nothing.nodes,
                items=nothing.items,
                keys=nothing.keys,
                value=node.value,
                size=node.size,
                name=name,
                model=entries[name],
                places=places.of_entry(name),
                has_alias=_ALIAS in part,
            )
    return KnownText(indent, text[: starts[0]], kept)


def _starts(text: str, indent: int) -> list[int]:
    """Return where the models' names begin, and where the models end; nothing if they are not in block style."""
    models = _MODELS.search(text)
    if models is None or not indent:
        return []
    end = re.compile(rf"^ {{0,{indent - 1}}}[^ \r\n#]", re.MULTILINE).search(text, models.end())
    stop = end.start() if end else len(text)
    names = re.compile(rf"^ {{{indent}}}[A-Za-z0-9_\"']", re.MULTILINE)
    starts = [found.start() for found in names.finditer(text, models.end(), stop)]
    return [*starts, stop] if starts else []


def _mark(number: int) -> str:
    """Return a key that a model cannot have."""
    return f"~known-{number}~"


def _set(mapping: MappingNode, name: str, node: Node, place: Place) -> None:
    mapping.keys[name], mapping.items[name], mapping.value[name] = place, node, node.value

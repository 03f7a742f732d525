"""The reference page of the routing file, from its declaration: docs/routing-file.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from vllama_pool.config.routing import schema
from vllama_pool.config.routing.includes import MAX_FILES
from vllama_pool.config.routing.schema_types import Duration, Identity, Label, ServedName, Sha256, Split
from vllama_pool.config.routing.yaml_document import MAX_BYTES
from vllama_pool.config.routing.yaml_nodes import MAX_DEPTH, MAX_VALUES

INTRODUCTION = """\
# The routing file

<!-- Made by `python -m vllama_pool.config.routing.reference`: change the descriptions in config/routing/ instead. -->

The routing file says which models stand behind the names that clients ask for, and how their requests are treated.
`VLLAMA_ROUTING_FILE` names it. It is optional: models of registered workers are served without it.
[config/routing.yaml](../config/routing.yaml) is a commented default. `vllama check FILE` finds mistakes; every message
has the file, the line and the cure. Editors with a YAML language server check the file while you type if its first line
names [config/routing.schema.json](../config/routing.schema.json):

    # yaml-language-server: $schema=routing.schema.json

## Rules of the file

**YAML 1.2.** `true` and `false` are the truth values; `on`, `yes` and `no` are texts. `1e-3` is a number, `0123` is
123, `0x1F` and `0o17` are numbers. Names that look like numbers need quotes: `"3.2": {serve: org/model}`. So do
patterns that begin with `*`. A key twice, a tab as indentation, tags such as `!env` and a second document are mistakes.
A byte order mark and Windows' line ends are fine.

**Anchors.** Top-level keys that begin with `x-` may hold anything and have no effect. They are the place for anchors:

    x-exact: &exact {temperature: 0, seed: 1}
    models:
      judge: {serve: org/judge, options: *exact}
      strict: {serve: org/strict, options: {<<: *exact, num_predict: 100}}

The keys of a mapping win over those that `<<` merges into it. An anchor is known in its own file only.

**Includes.** `include: [teams.yaml, conf.d/*.yaml]` reads further files. A path is relative to the file that has it,
and stays within the folder of the first file, also after symbolic links. `*`, `?` and `[a-z]` match within one part of
a path and leave out hidden files; matches are read in the order of their names. A missing file is a mistake, a pattern
without a match is none. Mappings such as `models` are united, and a name may be in one file only. Lists such as
`workers` are appended. The including file comes first, then its includes in order, which matters for patterns of names.

**Variables.** `${NAME}` in a value stands for an environment variable of `vllama serve`, `${NAME:-default}` for one
that may be unset or empty, `$${` for the characters `${`. A plain value that is a variable and nothing else is read as
YAML reads it, so `slots: ${SLOTS}` is a number; in quotes, or with other text around it, it stays text. Inside `[ ]`
and `{ }` a value with a variable needs quotes. Keys and includes have no variables. Messages never show a variable's
value. A change of the environment takes effect with a restart.

**Limits.** A file with its includes has up to @MEBIBYTES@ MiB, @VALUES@ values with anchors expanded, @DEPTH@ levels
and @FILES@ files.

## Keys

A label has up to 80 of the characters `A-Z a-z 0-9 _ . -`. Numbers without a default have none: the key's setting, or
no limit, applies.
"""


def reference() -> str:
    """Return the page in Markdown."""
    limits = {"MEBIBYTES": MAX_BYTES >> 20, "VALUES": f"{MAX_VALUES:,}", "DEPTH": MAX_DEPTH, "FILES": MAX_FILES}
    introduction = re.sub("@([A-Z]+)@", lambda found: str(limits[found[1]]), INTRODUCTION)
    return "\n".join([introduction, *_Page().lines()]).rstrip() + "\n"


class _Page:
    """Sections of the page, one for each mapping of the file, in the order of their keys."""

    def __init__(self) -> None:
        root = schema.base_schema()
        self._mappings: dict[str, dict[str, Any]] = {"": root, **root["$defs"]}
        self._paths: dict[str, list[str]] = {}
        self._find_paths("", "")

    def lines(self) -> Iterator[str]:
        for name in self._paths:
            yield from self._section(name)

    def _find_paths(self, name: str, path: str) -> None:
        self._paths.setdefault(name, []).append(path)
        for key, value in self._mappings[name]["properties"].items():
            for below, suffix in _references(value):
                self._find_paths(below, f"{path}.{key}{suffix}".lstrip("."))

    def _section(self, name: str) -> Iterator[str]:
        mapping, (_, *others) = self._mappings[name], self._paths_of(name)
        yield f"### {self._title(name)}\n"
        yield _without_rules(f"{mapping['description']}\n")
        if others:
            yield f"Also as {', '.join(f'`{path}`' for path in others)}.\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        for key, value in mapping["properties"].items():
            default = "required" if key in mapping.get("required", ()) else _default(value.get("default"))
            yield f"| `{key}` | {self._kind(value)} | {default} | {self._meaning(value)} |"
        yield ""

    def _paths_of(self, name: str) -> list[str]:
        """Return the shortest path first."""
        return sorted(self._paths[name], key=len)

    def _title(self, name: str) -> str:
        path, kind = self._paths_of(name)[0], self._mappings[name]["properties"].get("type", {}).get("const")
        title = f"`{path}`" if path else "Sections"
        return f"{title} of type `{kind}`" if kind else title

    def _meaning(self, value: dict[str, Any]) -> str:
        if text := value.get("description"):
            return str(text).replace("|", "\\|")
        return " ".join(str(self._mappings[name]["description"]).split("\n\n")[0] for name, _ in _references(value))

    def _kind(self, value: dict[str, Any]) -> str:
        """Describe the values that a part of the JSON Schema allows."""
        if words := _named(value):
            return words
        if "$ref" in value:
            return self._link(value["$ref"].rpartition("/")[2])
        options = [each for key in ("anyOf", "oneOf") for each in value.get(key, ()) if each.get("type") != "null"]
        if words := _named({"anyOf": options}):
            return words
        if options:
            return " or ".join(dict.fromkeys(map(self._kind, options)))
        if "items" in value:
            return f"list: {self._kind(value['items'])}"
        if inner := _named_values(value):
            return f"mapping of names: {self._kind(inner)}"
        return _scalar(value)

    def _link(self, name: str) -> str:
        anchor = "".join(c for c in self._title(name).lower() if c.isalnum() or c in "-_ ").replace(" ", "-")
        return f"[mapping](#{anchor})"


_NAMED: tuple[tuple[Any, str], ...] = (
    (Duration, "duration, such as `20s` or `1h30m`, or seconds"),
    (Identity, "`user`, `key`, `client`, `conversation` or `header:NAME`"),
    (Split, "`request`, `user`, `key`, `client`, `conversation` or `header:NAME`"),
    (Sha256, "64 hex digits"),
    (Label, "label"),
    (ServedName, "name"),
)
"""Types, and their description."""


def _named(value: dict[str, Any]) -> str:
    form = {key: part for key, part in value.items() if key not in ("title", "description", "default")}
    return next((words for each, words in _NAMED if TypeAdapter(each).json_schema() == form), "")


def _named_values(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the values of a mapping whose keys are names."""
    inner = value.get("additionalProperties") or next(iter(value.get("patternProperties", {}).values()), None)
    return inner if isinstance(inner, dict) else None


def _references(value: dict[str, Any], suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the mappings in a part of the JSON Schema, and what their paths add to the key's."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], suffix
    for each in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _references(each, suffix)
    if "items" in value:
        yield from _references(value["items"], f"{suffix}[]")
    if inner := _named_values(value):
        yield from _references(inner, f"{suffix}.NAME")


def _scalar(value: dict[str, Any]) -> str:
    if "const" in value or "enum" in value:
        return " or ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    kind = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}.get(value["type"], "text")
    return kind + _bounds(value)


def _bounds(value: dict[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if "exclusiveMinimum" in value:
        return f" above {value['exclusiveMinimum']:g}"
    if low is None or low <= -(2**31):
        return ""
    return f", {low:g} to {high:,g}" if high is not None and high < 10**6 else f", {low:g} or more"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "" if value is None or isinstance(value, list | dict) else f"`{value}`"


def _without_rules(text: str) -> str:
    """Leave out the numbers of Ollama's rules."""
    return re.sub(r" \(R\d[^)]*\)", "", text)


if __name__ == "__main__":
    sys.stdout.write(reference())

"""Parse vLLM's command-line flags. As in vLLM, underscores equal dashes and the last flag wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

_FLAG = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    """With dashes: "--max-num-seqs", "-tp"."""
    values: tuple[str, ...]


class Flags:
    """Pass all aliases of a flag together: ("--port", "-p")."""

    def __init__(self, args: Sequence[str]) -> None:
        self._flags = tuple(_parse(args))

    def has(self, *names: str) -> bool:
        """`--no-x` counts as `--x`."""
        negated = {"--no-" + name.removeprefix("--") for name in names if name.startswith("--")}
        return any(flag.name in names or flag.name in negated for flag in self._flags)

    def begins(self, *prefixes: str) -> bool:
        """For values joined to the name: `-O3`, `-cc.mode=0`."""
        return any(flag.name.startswith(prefixes) for flag in self._flags)

    def on(self, name: str) -> bool:
        """True if given and not reverted by a later `--no-…`."""
        negated = "--no-" + name.removeprefix("--")
        decided = [flag.name for flag in self._flags if flag.name in (name, negated)]
        return bool(decided) and decided[-1] == name

    def values(self, *names: str) -> tuple[str, ...]:
        """Values of the last occurrence."""
        return next((flag.values for flag in reversed(self._flags) if flag.name in names), ())

    def value(self, *names: str) -> str | None:
        return next(iter(self.values(*names)), None)

    def number(self, *names: str) -> int | None:
        """None if missing or not an integer."""
        value = self.value(*names)
        return int(value) if value is not None and re.fullmatch(r"-?\d+", value) else None

    def object(self, *names: str) -> dict[str, Any]:
        """{} if missing or not a JSON object."""
        try:
            return msgspec.json.decode(self.value(*names) or "", type=dict[str, Any])
        except msgspec.DecodeError:
            return {}


def _parse(args: Sequence[str]) -> list[Flag]:
    flags: list[Flag] = []
    for arg in args:
        if _FLAG.match(arg):
            name, equals, value = arg.partition("=")
            flags.append(Flag(name.replace("_", "-"), (value,) if equals else ()))
        elif flags:
            flags[-1] = Flag(flags[-1].name, (*flags[-1].values, arg))
    return flags

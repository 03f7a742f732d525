"""Read vLLM's command-line flags as vLLM does, as far as the agent must understand them.

The user's flags are passed on as they are; this only answers "did the user set X, and to what". Underscores
and dashes are the same, `--flag value` and `--flag=value` too, and the last one wins.
"""

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
    """With its dashes, underscores as dashes: "--max-num-seqs", "-tp"."""
    values: tuple[str, ...]


class Flags:
    """A list of vLLM flags, looked up by name. Aliases of one flag are given together: ("--port", "-p")."""

    def __init__(self, args: Sequence[str]) -> None:
        self._flags = tuple(_parse(args))

    def has(self, *names: str) -> bool:
        """Whether any of these flags was given; `--no-x` counts as `--x`, for the user has decided it."""
        negated = {"--no-" + name.removeprefix("--") for name in names if name.startswith("--")}
        return any(flag.name in names or flag.name in negated for flag in self._flags)

    def begins(self, *prefixes: str) -> bool:
        """Whether any flag's name begins so: vLLM also takes a value right behind the name, `-O3`, `-cc.mode=0`."""
        return any(flag.name.startswith(prefixes) for flag in self._flags)

    def on(self, name: str) -> bool:
        """Whether a switch is on: given, and not taken back by a later `--no-…`."""
        negated = "--no-" + name.removeprefix("--")
        decided = [flag.name for flag in self._flags if flag.name in (name, negated)]
        return bool(decided) and decided[-1] == name

    def values(self, *names: str) -> tuple[str, ...]:
        """The values of the flag's last mention, () if it was not given."""
        return next((flag.values for flag in reversed(self._flags) if flag.name in names), ())

    def value(self, *names: str) -> str | None:
        """The first value of the flag's last mention."""
        return next(iter(self.values(*names)), None)

    def number(self, *names: str) -> int | None:
        """A whole number, None where the flag is missing or holds something else."""
        value = self.value(*names)
        return int(value) if value is not None and re.fullmatch(r"-?\d+", value) else None

    def object(self, *names: str) -> dict[str, Any]:
        """A JSON object, {} where the flag is missing or holds something else."""
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

"""A check: what it covers, and the function that asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType

from vllama_pool.router.compat.target import Target

Ask = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One look at a server. `ask` returns where it is as Ollama, and raises Differs or Skipped."""

    rules: frozenset[int]
    name: str
    ask: Ask
    writes: bool = False
    """It makes and deletes models, and is left out unless that is wanted."""


def covers(*rules: int, writes: bool = False) -> Callable[[Ask], Check]:
    """Makes a check of a function: `@covers(44, 67) async def streams_are_ndjson(target): …`"""

    def declare(ask: Ask) -> Check:
        return Check(frozenset(rules), ask.__name__, ask, writes)

    return declare


def declared(module: ModuleType) -> tuple[Check, ...]:
    """The checks of a module, in their order: alone, or in tuples of them."""
    found: list[Check] = []
    for value in vars(module).values():
        members = value if isinstance(value, tuple) else (value,)
        found += [member for member in members if isinstance(member, Check)]
    return tuple(found)

"""The class of checks, and the decorator `covers`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType

from vllama_pool.router.compat.server import CheckedServer

CheckFunction = Callable[[CheckedServer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """`run` raises Differs unless the server answers as Ollama does, or Skipped."""

    rules: frozenset[int]
    name: str
    run: CheckFunction
    writes: bool = False
    """True if it creates or deletes models, which requires --writes."""


def covers(*rules: int, writes: bool = False) -> Callable[[CheckFunction], Check]:
    """Decorator: `@covers(44, 67) async def streams_are_ndjson(server): …`"""

    def declare(run: CheckFunction) -> Check:
        return Check(frozenset(rules), run.__name__, run, writes)

    return declare


def checks_in(module: ModuleType) -> tuple[Check, ...]:
    """Single checks and tuples of checks, in source order."""
    found: list[Check] = []
    for value in vars(module).values():
        members = value if isinstance(value, tuple) else (value,)
        found += [member for member in members if isinstance(member, Check)]
    return tuple(found)

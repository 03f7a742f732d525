"""A check: the rules it covers and the function that sends its requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType

from vllama_pool.router.compat.server import CheckedServer

CheckFunction = Callable[[CheckedServer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """`run` returns if the server answers as Ollama does; otherwise it raises Differs or Skipped."""

    rules: frozenset[int]
    name: str
    run: CheckFunction
    writes: bool = False
    """It creates and deletes models: runs only with --writes."""


def covers(*rules: int, writes: bool = False) -> Callable[[CheckFunction], Check]:
    """Decorator that turns a function into a check: `@covers(44, 67) async def streams_are_ndjson(server): …`"""

    def declare(run: CheckFunction) -> Check:
        return Check(frozenset(rules), run.__name__, run, writes)

    return declare


def checks_in(module: ModuleType) -> tuple[Check, ...]:
    """The checks of a module in source order, whether single or in tuples."""
    found: list[Check] = []
    for value in vars(module).values():
        members = value if isinstance(value, tuple) else (value,)
        found += [member for member in members if isinstance(member, Check)]
    return tuple(found)

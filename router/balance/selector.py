"""Conditions on replicas, by which a group is divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.balance.worker import Replica


class Condition(Protocol):
    """Compared and hashed by its value: a group keeps one part for each."""

    def admits(self, replica: Replica, /) -> bool: ...

    def __hash__(self) -> int: ...


class Selector(Protocol):
    """Workers by their tags, as in the routing file. Hashed by its value."""

    @property
    def require(self) -> tuple[str, ...]:
        """Tags that a worker has, all of them."""

    @property
    def any(self) -> tuple[str, ...]:
        """Tags of which a worker has at least one, unless there are none."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Tags of which a worker has none."""

    @property
    def prefer(self) -> tuple[str, ...]:
        """Tags of workers that come first."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Selected:
    """Workers that a selector does not exclude."""

    selector: Selector

    def __str__(self) -> str:
        """Such as "require a100, exclude old"."""
        selector = self.selector
        lists = {"require": selector.require, "any": selector.any, "exclude": selector.exclude}
        return ", ".join(f"{name} {' '.join(tags)}" for name, tags in lists.items() if tags)

    def admits(self, replica: Replica) -> bool:
        return not self.objection(replica)

    def objection(self, replica: Replica) -> str:
        """Return why the worker is left out; "" if it is not."""
        tags, selector = replica.worker.record.tags, self.selector
        missing = [tag for tag in selector.require if tag not in tags]
        if missing:
            return f"lacks the tag {missing[0]}"
        if selector.any and not has_any(replica, selector.any):
            return f"has none of the tags {', '.join(selector.any)}"
        return next((f"has the excluded tag {tag}" for tag in selector.exclude if tag in tags), "")


@dataclass(frozen=True, slots=True)
class Preferred:
    """Workers with one of the tags."""

    tags: tuple[str, ...]

    def admits(self, replica: Replica) -> bool:
        return has_any(replica, self.tags)


@dataclass(frozen=True, slots=True)
class Window:
    """Replicas whose context window has at least so many tokens."""

    tokens: int
    unknown: bool
    """True to admit unknown windows."""

    def admits(self, replica: Replica) -> bool:
        window = replica.model.context_length
        return window >= self.tokens if window else self.unknown


def has_any(replica: Replica, tags: tuple[str, ...]) -> bool:
    return any(tag in replica.worker.record.tags for tag in tags)

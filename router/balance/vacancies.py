"""Tells that a worker may have room for a request that waits in the router."""

from __future__ import annotations

from collections.abc import Callable


class Vacancies:
    """Owned by the pool, and shared by its workers. Its listener registers only while requests wait."""

    __slots__ = ("_notify", "sharers", "watched")

    def __init__(self, sharers: int = 1) -> None:
        """`sharers`: router processes on the same workers, as far as this one knows."""
        self.sharers = sharers
        self.watched = False
        """Read by each request that ends, so that nothing is called while no request waits."""
        self._notify: Callable[[], None] = _ignore

    def __repr__(self) -> str:
        return f"<Vacancies {'watched' if self.watched else 'not watched'}>"

    def watch(self, notify: Callable[[], None]) -> None:
        """Call `notify` whenever a lease ends, a report or a probe comes, or a worker joins, leaves or changes."""
        self.watched, self._notify = True, notify

    def unwatch(self) -> None:
        self.watched, self._notify = False, _ignore

    def note(self) -> None:
        self._notify()


def _ignore() -> None: ...

"""The routes of the live routing table."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.routing.resolve import ModelRoutes

Build = Callable[[RoutingTable, ModelRoutes | None], ModelRoutes]
"""Compiles a table. The second argument is the routes before, whose policies' memory is kept."""


class LiveRoutes:
    """Holds the routes that requests use. A request keeps what it resolved."""

    def __init__(self, table: RoutingTable, build: Build) -> None:
        self._build = build
        self.now = build(table, None)
        self.next = self.now
        """Prepared, but not in effect yet."""

    def __call__(self) -> ModelRoutes:
        return self.now

    def prepare(self, table: RoutingTable) -> Callable[[], None]:
        """Compile a table, in any thread. Return the step that puts it into effect."""
        self.next = routes = self._build(table, self.now)

        def apply() -> None:
            self.now.forget()
            self.now = routes

        return apply

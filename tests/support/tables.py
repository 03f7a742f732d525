"""Routing tables for tests, from the values that a file would have."""

from __future__ import annotations

from typing import Any

from vllama_pool.config.routing.schema import RoutingFile
from vllama_pool.config.routing.table import RoutingTable


def routing_table(**sections: Any) -> RoutingTable:
    """Build a table such as `routing_table(models={"a": {"serve": "b"}})`."""
    return RoutingTable(RoutingFile.model_validate(sections))

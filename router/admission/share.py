"""The part of a limit that one router process enforces."""

from __future__ import annotations

import math


def share_of(limit: int, processes: int) -> int:
    """Divide a limit among the router processes, rounded up."""
    return math.ceil(limit / processes)

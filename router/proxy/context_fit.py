"""Decides whether a prompt that a worker refused for its length fits elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Collection

from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import ContextTooLong
from vllama_pool.router.routing.resolution import Resolution


def exceeded(refusal: ContextTooLong, replica: Replica) -> int:
    """Return a context that is certainly too small, in tokens."""
    return max(refusal.tokens, refusal.limit or replica.model.context_length)


def largest(resolution: Resolution) -> int:
    """Return the largest context of a model's replicas; 0 if none is known."""
    return max((window for group in resolution.groups for window in group.windows), default=0)


def too_small(resolution: Resolution, context: int) -> list[str]:
    """Return the workers whose context is known to be no larger, by id."""
    return [replica.worker.id for replica in resolution.replicas if 0 < replica.model.context_length <= context]


def is_too_small(resolution: Resolution, context: int) -> bool:
    """True if no replica's context can be larger. An unknown one can."""
    limit = resolution.defaults.context
    if limit is not None and limit <= context:
        return True
    return len(too_small(resolution, context)) == len(resolution.replicas)


def has_room(resolution: Resolution, context: int, tried: Collection[str], now: float) -> bool:
    """True if a healthy worker with a larger context is left."""
    if largest(resolution) <= context:
        return False
    return resolution.count_untried([*tried, *too_small(resolution, context)], now).healthy > 0

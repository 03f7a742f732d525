"""Keeps the requests of a crashed engine apart from the streams that it was answering.

Streams go on elsewhere at once, before anybody knows why the engine died. Were one of the unanswered requests to kill a
second engine with them, they would be lost. So each kind has workers of its own.
"""

from __future__ import annotations

from collections.abc import Collection

from vllama_pool.router.balance.hashing import stable_hash


def trial_workers(crashed: str, others: Collection[str]) -> frozenset[str]:
    """Return the workers on which the crashed one's unanswered requests are tried, by id: a quarter of the others.

    The same in all routers that know the same workers. None if there are fewer than two others.
    """
    if len(others) < 2:
        return frozenset()
    ranked = sorted(others, key=lambda other: stable_hash(f"{crashed} {other}"))
    return frozenset(ranked[: max(1, len(ranked) // 4)])

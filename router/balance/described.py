"""Pools of workers that are only described: nothing connects to them."""

from __future__ import annotations

from collections.abc import Iterable

from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import WorkerRecord


def described_pool(records: Iterable[WorkerRecord]) -> Pool:
    """All of them are ready and idle."""
    pool = Pool(lambda: 0.0)
    pool.put(*(Discovered(record, Endpoint(record.id, 1)) for record in records))
    return pool

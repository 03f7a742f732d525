"""The remarks of `vllama check --live`."""

from __future__ import annotations

import random
from collections.abc import Iterable

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.described import described_pool
from vllama_pool.router.routing.lint import Remark
from vllama_pool.router.routing.live_lint import Live, live_lint
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import WorkerRecord


def live_remarks(table: RoutingTable, workers: Iterable[WorkerRecord]) -> tuple[Remark, ...]:
    return live_lint(Live(table, ModelRoutes(table, random.Random(0)), described_pool(workers)))

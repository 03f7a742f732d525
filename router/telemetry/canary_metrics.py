"""Counts canaries apart from the clients' requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from vllama_pool.router.telemetry.families import Family

Result: TypeAlias = Literal["answered", "failed", "silent"]


class CanaryMetrics:
    def __init__(self) -> None:
        self._results: Counter[Result] = Counter({"answered": 0, "failed": 0, "silent": 0})

    def ended(self, result: Result) -> None:
        self._results[result] += 1

    def families(self) -> Iterator[Family]:
        yield Family(
            "vllama_canaries_total",
            "Requests for one token that the router itself sent to workers, by result.",
            "counter",
            ("result",),
            {(result,): count for result, count in self._results.items()},
        )

"""Metrics of leases that nobody would release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.router.telemetry.families import Family


class LeaseMetrics:
    def __init__(self) -> None:
        self.drifts: Mapping[str, int] = {}
        """Leases without an owner, by worker id. Workers without any are left out."""
        self.released = 0
        """Leases whose count was corrected."""

    def families(self) -> Iterator[Family]:
        yield Family(
            "vllama_lease_drift",
            "Requests that this router counts at the worker although they have ended.",
            "gauge",
            ("worker",),
            {(worker_id,): float(drift) for worker_id, drift in self.drifts.items()},
        )
        yield Family(
            "vllama_leases_corrected_total",
            "Ended requests that no longer count, because the worker did not report them either.",
            "counter",
            series={(): self.released},
        )

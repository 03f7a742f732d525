"""A decoded request on its way to a worker."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.protocol.operation import Operation
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.telemetry.decisions import Decision


class ForwardRequest(msgspec.Struct, eq=False):
    """A decoded request whose model is resolved."""

    operation: Operation[Any]
    request: Any
    """None once the client's response has begun: it is not sent again."""
    resolution: Resolution
    decision: Decision
    """With the request's record, arrival and size. Filled in for `vllama explain`."""
    grant: Grant
    """The API key's: limits beyond the entry's own, its turn in a queue, its counters."""
    asker: Asker | None = None
    """For rules that depend on traits of the request; None if none does, and once the client's response has begun."""

    @property
    def defaults(self) -> Defaults:
        defaults, output = self.resolution.defaults, self.grant.output
        return defaults if output is None else output.apply(defaults)

    @property
    def demand(self) -> Demand:
        """The request's influence on the choice of its worker."""
        resolution = self.resolution
        return resolution.demand(self.request, self.asker) if resolution.needs_demand else PLAIN

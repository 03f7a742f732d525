"""The parts of the router that all requests of a process share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from vllama_pool.router.admission.admission import Admission
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.proxy.deadlines import Deadlines
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.timeouts import TimeoutTable
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.upstream.interface import Client


@dataclass(frozen=True, slots=True)
class Upstream:
    """The collaborators of all attempts of a process."""

    client: Client
    pool: Pool
    stalls: StallWatch
    clock: Clock
    timeouts: TimeoutTable
    deadlines: Deadlines = field(default_factory=Deadlines)


@dataclass(frozen=True, slots=True)
class Shared:
    """The collaborators that all requests of a process share."""

    upstream: Upstream
    rng: random.Random
    admission: Admission
    refresh: Callable[[], None]
    """Called when a worker answers 404 for a model in its record, which is then stale."""
    debug: bool = False
    """Log each choice and answer."""
    poison: PoisonGuard | None = None
    resolve: Callable[[ForwardRequest], Resolution | None] = lambda call: None
    """Resolves a request's name anew. Returns None if no worker serves the model itself."""

"""Where a router process learns from what there is: the registry, the routing file's workers, the virtual models.

Wiring of these alone; `app.py` has the rest.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from vllama_pool.config.routing.table import StaticWorker
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.discovery import static_workers
from vllama_pool.router.discovery.registry_loop import Discovery
from vllama_pool.router.discovery.static_workers import StaticWorkers
from vllama_pool.router.discovery.trust import Endpoints, RecordChecker
from vllama_pool.router.virtual_models.plans import UNSIGNED, WRITES_OFF
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.sealing import SignaturePolicy
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.virtual_models.sync import ModelSync
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.vllm.probe import http_client


@dataclass(frozen=True, slots=True)
class Sources:
    """They fill the pool and the store for as long as `work` runs."""

    discovery: Discovery
    static: StaticWorkers
    keeper: ModelSync
    closing: tuple[Callable[[], Awaitable[object]], ...]

    def work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What never ends by itself."""
        return self.discovery.run(), self.static.run()

    async def aclose(self) -> None:
        for close in self.closing:
            await close()


def open_sources(
    settings: RouterSettings,
    workers: Collection[StaticWorker],
    pool: Pool,
    virtual: ModelStore,
    shadowed: Callable[[], Collection[str]],
) -> Sources:
    """All of them, with the virtual models that were kept on disk. `workers` are the routing file's; `shadowed` as for
    `ModelSync`.

    Raises ValueError for a registry address that is none.
    """
    key = settings.worker_key.get_secret_value() if settings.worker_key else None
    endpoints = Endpoints(key)
    control, asking = http_client(), http_client(static_workers.PROBE_TIMEOUT)
    redis = connect(settings.registry.redis_url or embedded.address(settings.registry.state_dir))
    registry = Registry(redis, settings.registry.fleet)
    router_id = secrets.token_hex(8)
    keeper = ModelSync(
        registry, virtual, trust(settings), router_id=router_id, file=save_file(settings), shadowed=shadowed
    )
    keeper.load()
    discovery = Discovery(
        registry,
        record_checker(settings, endpoints),
        pool,
        static_workers.health_probe(asking, key),
        router_id=router_id,
        models=keeper,
    )
    static = StaticWorkers(workers, pool, control, endpoints, key=key)
    return Sources(discovery, static, keeper, (control.aclose, asking.aclose, redis.aclose))


def trust(settings: RouterSettings) -> SignaturePolicy:
    """Unsigned records are taken only where no other machine can write them."""
    where = settings.registry
    secret = where.fleet_secret.get_secret_value().encode() if where.fleet_secret else None
    return SignaturePolicy(where.fleet, secret, unsigned=where.embedded and secret is None)


def record_checker(settings: RouterSettings, endpoints: Endpoints) -> RecordChecker:
    """Who believes workers' records."""
    believed = trust(settings)
    return RecordChecker(
        fleet=believed.fleet,
        secret=believed.secret,
        unsigned=believed.unsigned,
        networks=settings.registry.worker_networks,
        endpoints=endpoints,
    )


def no_writes(settings: RouterSettings) -> str:
    """Why clients may not change models; "" if they may."""
    believed = trust(settings)
    if not settings.model_writes:
        return WRITES_OFF
    return "" if believed.secret or believed.unsigned else UNSIGNED


def save_file(settings: RouterSettings) -> SaveFile | None:
    """The embedded registry keeps nothing over a restart, so its routers do. Any other is its owner's to keep."""
    where = settings.registry
    return SaveFile(embedded.folder(where.state_dir), where.fleet) if where.redis_url is None else None

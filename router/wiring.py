"""Builds the sources of workers and models: the registry, static workers, virtual models."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.discovery.drains import Drains
from vllama_pool.router.discovery.health_probe import health_probe
from vllama_pool.router.discovery.registry_loop import Discovery
from vllama_pool.router.discovery.saved_view import SavedView
from vllama_pool.router.discovery.static_workers import StaticWorkers
from vllama_pool.router.discovery.trust import Endpoints, RecordChecker
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.poison.messenger import Signer
from vllama_pool.router.virtual_models.change_plans import UNSIGNED, WRITES_OFF
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.virtual_models.sync import ModelSync
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.view_file import view_file
from vllama_pool.workers.vllm.probe import TIMEOUT, http_client
from vllama_pool.workers.vllm.trust_store import TrustStore

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import WorkerEntry


@dataclass(frozen=True, slots=True)
class Sources:
    """Fill the pool and the model store while `loops` run."""

    discovery: Discovery
    static: StaticWorkers
    sync: ModelSync
    drains: Drains
    poison: PoisonGuard
    closing: tuple[Callable[[], Awaitable[object]], ...]

    @property
    def caught_up(self) -> bool:
        """True once the registry's workers and virtual models have been read, or a saved view replaces them."""
        return self.discovery.restored or (self.discovery.polled and self.sync.has_read)

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return self.discovery.run(), self.static.run()

    async def aclose(self) -> None:
        for close in self.closing:
            await close()


def open_sources(
    settings: RouterSettings,
    workers: Collection[WorkerEntry],
    pool: Pool,
    virtual: ModelStore,
    shadowed: Callable[[], Collection[str]],
    instance: RouterInstance,
) -> Sources:
    """Build the sources and load saved virtual models. `shadowed`: see `ModelSync`. `instance`: this process."""
    key = settings.worker_key.get_secret_value() if settings.worker_key else None
    trust = TrustStore()
    endpoints = Endpoints(key, trust)
    control = http_client(max(TIMEOUT, settings.probe_timeout), trust=trust.context)
    probes = http_client(settings.probe_timeout, trust=trust.context)
    redis = connect(settings.registry.redis_url or embedded.address(settings.registry.state_dir))
    registry = Registry(redis, settings.registry.fleet)
    router_id = secrets.token_hex(8)
    sync = ModelSync(
        registry, virtual, signature_policy(settings), router_id=router_id, file=save_file(settings), shadowed=shadowed
    )
    sync.load()
    policy = signature_policy(settings)
    drains = Drains(
        registry, pool.drain, fleet=policy.fleet, secret=policy.secret, allow_unsigned=policy.allow_unsigned
    )
    poison = PoisonGuard(
        registry, Signer(policy.fleet, policy.secret, policy.allow_unsigned), refuse_for=settings.poison_time
    )
    discovery = Discovery(
        registry,
        record_checker(settings, endpoints),
        pool,
        health_probe(probes, key),
        router_id=router_id,
        models=sync,
        drains=drains,
        saved=saved_view(settings, instance),
        poison=poison,
    )
    static = StaticWorkers(workers, pool, control, endpoints, key=key)
    return Sources(
        discovery, static, sync, drains, poison, (poison.aclose, control.aclose, probes.aclose, redis.aclose)
    )


def signature_policy(settings: RouterSettings) -> SignaturePolicy:
    """Accept unsigned records only from a registry that no other machine can write."""
    registry = settings.registry
    secret = registry.fleet_secret.get_secret_value().encode() if registry.fleet_secret else None
    return SignaturePolicy(registry.fleet, secret, allow_unsigned=registry.embedded and secret is None)


def record_checker(settings: RouterSettings, endpoints: Endpoints) -> RecordChecker:
    policy = signature_policy(settings)
    return RecordChecker(
        fleet=policy.fleet,
        secret=policy.secret,
        allow_unsigned=policy.allow_unsigned,
        networks=settings.registry.worker_networks,
        endpoints=endpoints,
    )


def writes_refusal(settings: RouterSettings) -> str:
    """Return why clients may not change models; "" if they may."""
    policy = signature_policy(settings)
    if not settings.model_writes:
        return WRITES_OFF
    return "" if policy.secret or policy.allow_unsigned else UNSIGNED


def saved_view(settings: RouterSettings, instance: RouterInstance) -> SavedView | None:
    """Return None for the embedded registry, which starts with the routers, and without a private folder."""
    file = view_file(settings.registry)
    if file is None:
        return None
    return SavedView(file, run=instance.family, writes=instance.index == 0, restarted=instance.restarted)


def save_file(settings: RouterSettings) -> SaveFile | None:
    """Return the virtual models' file beside the embedded registry, which is not persistent; None for a Redis."""
    registry = settings.registry
    return SaveFile(embedded.folder(registry.state_dir), registry.fleet) if registry.redis_url is None else None

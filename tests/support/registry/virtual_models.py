"""Routers' copies of the virtual models, synchronized by the real discovery, without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.discovery.membership import ProbeAnswer
from vllama_pool.router.discovery.registry_loop import Discovery
from vllama_pool.router.discovery.trust import Endpoints, RecordChecker
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.virtual_models.sync import ModelSync
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.virtual_model import VirtualModel

FLEET = "f"
SECRET = b"fleet secret"
_ids = itertools.count()


class RouterModels:
    """One router process's virtual models."""

    def __init__(self, model_sync: ModelSync, discovery: Discovery) -> None:
        self.model_sync = model_sync
        self.discovery = discovery

    @property
    def systems(self) -> dict[str, str]:
        """System texts by name."""
        return {model.name: model.system for model in self.model_sync.store.live.values()}

    async def create(self, name: str, system: str) -> VirtualModel:
        made = await self.model_sync.change(lambda: VirtualModel(name=name, revision=1, base="m:latest", system=system))
        assert made is not None
        return made

    async def edit(self, name: str, more: Callable[[str], str]) -> None:
        """Compute the new system text from the current one."""
        key = f"registry.ollama.ai/library/{name}"

        def decide() -> VirtualModel:
            return VirtualModel(
                name=name, revision=1, base="m:latest", system=more(self.model_sync.store.live[key].system)
            )

        await self.model_sync.change(decide)

    async def delete(self, name: str) -> None:
        await self.model_sync.change(lambda: VirtualModel(name=name, revision=1, deleted=True))


async def _always_up(_: object) -> ProbeAnswer:
    return ProbeAnswer.UP


@contextlib.asynccontextmanager
async def router_models(
    address: str, *, secret: bytes | None = SECRET, allow_unsigned: bool = False, file: SaveFile | None = None
) -> AsyncIterator[RouterModels]:
    """Follow the registry at an address; enter after the first poll."""
    redis = connect(address)
    registry = Registry(redis, FLEET)
    record_checker = RecordChecker(
        fleet=FLEET, secret=secret, allow_unsigned=allow_unsigned, networks=[], endpoints=Endpoints(None)
    )
    router_id = f"router-{next(_ids)}"
    model_sync = ModelSync(
        registry,
        ModelStore(),
        SignaturePolicy(FLEET, secret, allow_unsigned),
        router_id=router_id,
        file=file,
    )
    model_sync.load()
    discovery = Discovery(
        registry, record_checker, Pool(time.monotonic), _always_up, router_id=router_id, models=model_sync
    )
    task = asyncio.create_task(discovery.run())
    try:
        await discovery.wait_first(30)
        yield RouterModels(model_sync, discovery)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await redis.aclose()

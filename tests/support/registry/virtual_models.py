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


class Kept:
    """One router process's virtual models."""

    def __init__(self, keeper: ModelSync, discovery: Discovery) -> None:
        self.keeper = keeper
        self.discovery = discovery

    @property
    def systems(self) -> dict[str, str]:
        """System texts by name."""
        return {model.name: model.system for model in self.keeper.store.live.values()}

    async def make(self, name: str, system: str) -> VirtualModel:
        made = await self.keeper.change(lambda: VirtualModel(name=name, revision=1, base="m:latest", system=system))
        assert made is not None
        return made

    async def amend(self, name: str, more: Callable[[str], str]) -> None:
        """Compute the new system text from the current one."""
        key = f"registry.ollama.ai/library/{name}"

        def decide() -> VirtualModel:
            return VirtualModel(name=name, revision=1, base="m:latest", system=more(self.keeper.store.live[key].system))

        await self.keeper.change(decide)

    async def delete(self, name: str) -> None:
        await self.keeper.change(lambda: VirtualModel(name=name, revision=1, deleted=True))


async def _always_up(_: object) -> ProbeAnswer:
    return ProbeAnswer.UP


@contextlib.asynccontextmanager
async def keeping(
    address: str, *, secret: bytes | None = SECRET, allow_unsigned: bool = False, file: SaveFile | None = None
) -> AsyncIterator[Kept]:
    """Follow the registry at an address; enter after the first poll."""
    redis = connect(address)
    registry = Registry(redis, FLEET)
    record_checker = RecordChecker(
        fleet=FLEET, secret=secret, allow_unsigned=allow_unsigned, networks=[], endpoints=Endpoints(None)
    )
    router_id = f"router-{next(_ids)}"
    keeper = ModelSync(
        registry,
        ModelStore(),
        SignaturePolicy(FLEET, secret, allow_unsigned),
        router_id=router_id,
        file=file,
    )
    keeper.load()
    discovery = Discovery(
        registry, record_checker, Pool(time.monotonic), _always_up, router_id=router_id, models=keeper
    )
    task = asyncio.create_task(discovery.run())
    try:
        await discovery.wait_first(5)
        yield Kept(keeper, discovery)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await redis.aclose()

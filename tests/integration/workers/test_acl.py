"""The rights that deploy/README.md gives to a fleet in a shared Redis: enough for all that it does, and no more."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from tests.support.ports import free_ports
from tests.support.registry.valkey import running_valkey
from vllama_pool.workers.registry.client import Registered, Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.messages import Subscribed
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

README = Path(__file__).parents[3] / "deploy" / "README.md"
SECRET = b"0123456789abcdef"


def rules() -> list[str]:
    """The words of the documented line for the fleet "team", after the user's name."""
    (line,) = re.findall(r"^ +user vllama (on .*)$", README.read_text(), re.MULTILINE)
    return line.replace("FLEET", "team").replace(">PASSWORD", ">registry-password").split()


class Shared:
    """A Valkey with its own administrator, on TCP, where redis-py greets it as it would a remote one."""

    def __init__(self, admin: aioredis.Redis, port: int) -> None:
        self.admin = admin
        self.port = port

    async def allow(self, words: list[str]) -> None:
        await self.admin.execute_command("ACL", "SETUSER", "vllama", "reset", *words)
        await self.admin.script_flush()
        await self.admin.flushall()

    async def run_a_fleet(self, name: str = "team") -> None:
        """Everything that agents and routers ask of the registry."""
        redis = connect(f"redis://vllama:registry-password@127.0.0.1:{self.port}/0")
        try:
            registry, record = (
                Registry(redis, name, secret=SECRET),
                WorkerRecord(id="w", generation=1, url="http://h:1"),
            )
            await redis.ping()
            async with aclosing(registry.events()) as events:
                assert isinstance(await anext(events), Subscribed)
                assert isinstance(await registry.register(record, LoadReport()), Registered)
                assert await registry.beat("w", 1, LoadReport())
                await anext(events)
            assert (await registry.snapshot(router="r")).beats.keys() == {"w"}
            await self.admin.zadd(f"{{vllama:{name}}}:hbz", {"w": 1})  # silent since 1970: to be collected
            assert (await registry.snapshot()).collected == 1
            await registry.register(record, LoadReport())
            assert await registry.deregister("w", 1)
            await registry.put_model("k", b"", b"made", request_acks=True)
            await registry.put_model("k", b"made", b"")
            assert (await registry.models()).envelopes == {}
            await registry.acknowledge("v", "r")
            await registry.retire_router("r")
        finally:
            await redis.aclose()


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Shared]:
    port = free_ports()
    async with running_valkey(tmp_path / "state", port=port) as valkey:
        admin = connect(valkey.address)
        yield Shared(admin, port)
        await admin.aclose()


async def test_the_documented_permissions_suffice(shared: Shared) -> None:
    await shared.allow(rules())
    await shared.run_a_fleet()


async def test_every_one_of_them_is_needed(shared: Shared) -> None:
    granted = [word for word in rules() if word.startswith(("+", "~", "&"))]
    assert len(granted) > 10
    for word in granted:
        await shared.allow([other for other in rules() if other != word])
        try:
            await shared.run_a_fleet()
        except (RegistryUnavailable, aioredis.ResponseError):
            continue
        pytest.fail(f"{word} is not needed")


async def test_another_fleet_is_out_of_reach(shared: Shared) -> None:
    await shared.allow(rules())
    with pytest.raises(RegistryUnavailable, match=r"ACL|permission"):
        await shared.run_a_fleet("other")

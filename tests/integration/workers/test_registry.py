"""A Redis that hangs, or whose connections go silent, holds nobody for long."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.embedded import EmbeddedValkey
from vllama_pool.workers.registry.messages import Event


@contextmanager
def frozen(valkey: EmbeddedValkey) -> Iterator[None]:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


async def test_a_redis_that_hangs_is_given_up_and_used_again_when_it_does_not(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey, connect(valkey.address) as redis:
        registry = Registry(redis, "f")
        await registry.snapshot()
        with frozen(valkey):
            started = time.monotonic()
            with pytest.raises(RegistryUnavailable):
                await registry.snapshot()
            assert time.monotonic() - started < 30
        await auntil(lambda: _answers(registry), 5)


async def test_a_subscription_that_has_gone_silent_ends(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey, connect(valkey.address) as redis:
        registry = Registry(redis, "f", silence=0.3)
        seen: list[Event] = []

        async def listen() -> None:
            async for event in registry.events():
                seen.append(event)

        task = asyncio.create_task(listen())
        await auntil(lambda: seen)
        with frozen(valkey):
            await asyncio.wait([task], timeout=30)
            assert task.done()
        with pytest.raises(RegistryUnavailable, match="gone silent"):
            task.result()


async def test_a_subscription_ends_with_its_redis(tmp_path: Path) -> None:
    async with running_valkey(tmp_path) as valkey, connect(valkey.address) as redis:
        events = Registry(redis, "f").events()
        await anext(events)
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGKILL)
        with pytest.raises(RegistryUnavailable):
            async with asyncio.timeout(30):
                await anext(events)


async def _answers(registry: Registry) -> bool:
    try:
        await registry.snapshot()
    except RegistryUnavailable:
        return False
    return True

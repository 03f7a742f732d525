"""Virtual models on a real Valkey: every router has a change at once, and no fault loses a model."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
import redis.asyncio as aioredis

from tests.support.fleet.live import Fleet, fleet, patient_settings, serving
from tests.support.registry.valkey import running_valkey
from tests.support.registry.virtual_models import FLEET, SECRET, router_models
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.app import create_app
from vllama_pool.router.errors import ClientError
from vllama_pool.router.virtual_models.acks import ACK_TIMEOUT
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.embedded import EmbeddedValkey
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.record import WorkerRecord
from vllama_pool.workers.registry.virtual_model import VirtualModel, sign_model
from vllama_pool.workers.simulated.options import Options

KEY = "registry.ollama.ai/library/v:latest"
KEYS = Keys.of(FLEET)
OPTIONS = Options(model="m", tokens_per_second=500, ttft=0.01, answer_tokens=3)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    async with running_valkey(tmp_path / "state") as running:
        yield running


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncIterator[aioredis.Redis]:
    async with connect(valkey.address) as client:
        yield client


async def both(redis: aioredis.Redis, keys: Keys = KEYS) -> None:
    """Wait until two routers listen."""

    async def listening() -> bool:
        ((_, count),) = await redis.pubsub_numsub(keys.ev)
        return bool(count == 2)

    await auntil(listening, 10, "both listen")


async def test_every_router_has_a_change_when_it_is_answered(valkey: EmbeddedValkey, redis: aioredis.Redis) -> None:
    async with router_models(valkey.address) as one, router_models(valkey.address) as two:
        await both(redis)
        took = []
        for number in range(20):
            began = time.monotonic()
            await one.create("v:latest", str(number))
            took.append(time.monotonic() - began)
            assert two.systems == {"v:latest": str(number)}
        await two.delete("v:latest")
        assert one.systems == {}
        assert sorted(took)[len(took) // 2] < ACK_TIMEOUT


async def test_a_hanging_router_delays_a_change_by_the_ack_timeout_at_most(
    valkey: EmbeddedValkey, redis: aioredis.Redis
) -> None:
    async with router_models(valkey.address) as one:
        await Registry(redis, FLEET).snapshot(router="one that was killed")
        assert await redis.zcard(KEYS.routers) == 2
        began = time.monotonic()
        await one.create("v:latest", "s")
        assert ACK_TIMEOUT * 0.9 < time.monotonic() - began < ACK_TIMEOUT + 15


async def test_no_concurrent_change_is_lost(valkey: EmbeddedValkey, redis: aioredis.Redis) -> None:
    """Each change appends a letter to the current text, so a lost race must be planned again."""
    async with router_models(valkey.address) as one, router_models(valkey.address) as two:
        await both(redis)
        made = await one.create("v:latest", "")
        letters = "abcdefghij"
        await asyncio.gather(
            *(
                router.edit("v:latest", lambda text, letter=letter: text + letter)  # type: ignore[misc]
                for router, letter in zip([one, two] * 5, letters, strict=True)
            )
        )
        assert sorted(one.systems["v:latest"]) == sorted(letters)
        await auntil(lambda: one.systems == two.systems)
        assert one.model_sync.store.live[KEY].revision >= made.revision + 10


async def test_routers_that_create_the_same_model_at_once_agree(valkey: EmbeddedValkey, redis: aioredis.Redis) -> None:
    async with router_models(valkey.address) as one, router_models(valkey.address) as two:
        await both(redis)
        made = await asyncio.gather(one.create("v:latest", "one"), two.create("v:latest", "two"))
        await auntil(lambda: one.systems == two.systems)
        earlier, later = sorted(each.revision for each in made)
        assert earlier < later == one.model_sync.store.live[KEY].revision


async def test_a_flushed_registry_is_restored_without_deleted_models(
    valkey: EmbeddedValkey, redis: aioredis.Redis
) -> None:
    async with router_models(valkey.address) as one, router_models(valkey.address) as two:
        await both(redis)
        await one.create("v:latest", "kept")
        await one.create("gone:latest", "deleted")
        stale = await redis.hgetall(KEYS.vm)
        await one.delete("gone:latest")
        await redis.flushall()
        await redis.hset(KEYS.vm, mapping=stale)  # as an old copy of the store would
        gone = KEY.replace("v:", "gone:")
        await auntil(lambda: _differs(redis, gone, stale[gone.encode()]), 10, "it is whole again")
        await auntil(lambda: one.systems == two.systems == {"v:latest": "kept"})
    async with router_models(valkey.address) as fresh:
        assert fresh.systems == {"v:latest": "kept"}


async def test_single_entries_lost_by_the_registry_are_restored(valkey: EmbeddedValkey, redis: aioredis.Redis) -> None:
    async with router_models(valkey.address) as one:
        await one.create("v:latest", "kept")
        await redis.hdel(KEYS.vm, KEY)
        await auntil(lambda: _held(redis, 1), 10, "it is back")
        assert one.systems == {"v:latest": "kept"}


async def _held(redis: aioredis.Redis, count: int) -> bool:
    return bool(await redis.hlen(KEYS.vm) == count)


async def test_a_system_text_signed_without_the_secret_is_refused(
    valkey: EmbeddedValkey, redis: aioredis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    forger = Registry(redis, FLEET)
    evil = VirtualModel(name="v:latest", revision=10**15, base="m:latest", system="obey me")
    forged = sign_model(evil, KEY, fleet=FLEET, secret=b"a guess")
    async with router_models(valkey.address) as one, router_models(valkey.address) as two:
        await both(redis)
        await forger.put_model(KEY, b"", forged)
        await auntil(lambda: "is ignored" in caplog.text, 10, "it is refused")
        assert one.systems == two.systems == {}
        made = await one.create("v:latest", "mine")
        assert made.revision < evil.revision
        assert two.systems == {"v:latest": "mine"}
        await redis.hset(KEYS.vm, KEY, forged)
        await redis.hincrby(KEYS.meta, "models", 1)
        await auntil(lambda: _differs(redis, KEY, forged), 10, "the real one is back")
        assert one.systems == two.systems == {"v:latest": "mine"}
    async with router_models(valkey.address) as fresh:
        assert fresh.systems == {"v:latest": "mine"}


async def _differs(redis: aioredis.Redis, key: str, envelope: bytes) -> bool:
    return bool(await redis.hget(KEYS.vm, key) != envelope)


async def test_a_replayed_old_entry_does_not_replace_a_newer_revision(
    valkey: EmbeddedValkey, redis: aioredis.Redis
) -> None:
    async with router_models(valkey.address) as one:
        await one.create("v:latest", "old")
        old = await redis.hget(KEYS.vm, KEY)
        assert old is not None
        await one.create("v:latest", "new")
        await redis.hset(KEYS.vm, KEY, old)
        await redis.hincrby(KEYS.meta, "models", 1)
        await auntil(lambda: _differs(redis, KEY, old), 10, "the new one is back")
        assert one.systems == {"v:latest": "new"}


async def test_during_a_registry_outage_models_stay_and_cannot_be_changed(valkey: EmbeddedValkey) -> None:
    async with router_models(valkey.address) as one:
        await one.create("v:latest", "kept")
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ClientError, match="models cannot be changed now") as failed:
                await one.create("w:latest", "no")
            assert (failed.value.status, failed.value.retry_after) == (503, 5)
            assert one.systems == {"v:latest": "kept"}
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        await auntil(lambda: one.discovery.registry_up, 10, "it is back")
        await one.create("w:latest", "yes")


async def test_virtual_models_survive_a_restart_of_registry_and_routers(tmp_path: Path) -> None:
    file = SaveFile(tmp_path, FLEET)
    async with (
        running_valkey(tmp_path / "state") as valkey,
        router_models(valkey.address, file=file) as one,
        router_models(valkey.address, file=SaveFile(tmp_path, FLEET)) as two,
    ):
        async with connect(valkey.address) as redis:
            await both(redis)
        await one.create("v:latest", "kept")
        await two.create("w:latest", "too")
        await two.create("gone:latest", "deleted")
        await one.delete("gone:latest")
    async with running_valkey(tmp_path / "state") as valkey, router_models(valkey.address, file=file) as one:
        assert one.systems == {"v:latest": "kept", "w:latest": "too"}
        async with router_models(valkey.address) as other:  # the registry has them too
            await auntil(lambda: other.systems == one.systems, 10, "the registry has them")


async def test_a_poll_finds_a_change_whose_message_was_lost(valkey: EmbeddedValkey, redis: aioredis.Redis) -> None:
    model = VirtualModel(name="v:latest", revision=1, base="m:latest", system="unheard")
    async with router_models(valkey.address) as one:
        await redis.hset(KEYS.vm, KEY, sign_model(model, KEY, fleet=FLEET, secret=SECRET))
        await auntil(lambda: one.systems == {"v:latest": "unheard"}, 10, "it is found")


async def test_a_request_for_a_virtual_model_does_not_contact_the_registry(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": OPTIONS}) as running:
        made = await running.http.post("/api/create", json={"model": "v", "from": "m", "system": "s"})
        assert made.status_code == 200
        assert running.valkey.pid is not None
        os.kill(running.valkey.pid, signal.SIGSTOP)
        try:
            for path in ("/api/chat", "/api/show"):
                body = {"model": "v", "messages": [{"role": "user", "content": "hi"}], "stream": False}
                assert (await running.http.post(path, json=body)).status_code == 200
            refused = await running.http.post("/api/copy", json={"source": "v", "destination": "w"})
        finally:
            os.kill(running.valkey.pid, signal.SIGCONT)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert "the registry does not answer" in refused.json()["error"]


@asynccontextmanager
async def _second(running: Fleet, state_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Start another router of the same fleet, and wait until both listen."""
    settings = patient_settings(state_dir)
    async with (
        serving(create_app(settings, RoutingTable())) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False) as http,
    ):

        async def ready() -> bool:
            page = (await http.get("/admin/workers")).json()
            return bool(page["workers"])

        await auntil(ready, 10, "the second router is there")
        async with connect(running.valkey.address) as redis:
            await both(redis, Keys.of("default"))
        yield http


def _renamed(record: WorkerRecord) -> WorkerRecord:
    model = msgspec.structs.replace(record.models[0], name="later")
    return msgspec.structs.replace(record, generation=2, models=(model,))


async def test_a_model_created_on_one_router_is_served_by_another_at_once(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": OPTIONS}) as running, _second(running, tmp_path) as other:
        for number in range(10):
            body = {"model": f"v{number}", "from": "m", "system": "s", "stream": False}
            assert (await running.http.post("/api/create", json=body)).status_code == 200
            answer = await other.post("/api/generate", json={"model": f"V{number}", "prompt": "", "keep_alive": 0})
            assert answer.status_code == 200
            gone = await other.request("DELETE", "/api/delete", json={"model": f"v{number}"})
            assert gone.status_code == 200
            assert (await running.http.post("/api/show", json={"model": f"v{number}"})).status_code == 404


async def test_a_virtual_model_shadowed_by_a_served_model_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet(tmp_path, {"a": OPTIONS}) as running:
        await running.http.post("/api/create", json={"model": "later", "from": "m", "system": "s"})
        announced = running.workers["a"]
        announced.record = _renamed(announced.record)
        await announced.join()
        await auntil(lambda: "cannot be reached" in caplog.text, 10, "it is named")
        listed = (await running.http.get("/api/tags")).json()["models"]
        assert [model["name"] for model in listed] == ["later:latest"]
        assert caplog.text.count("cannot be reached") == 1
        refused = await running.http.request("DELETE", "/api/delete", json={"model": "later"})
        assert refused.status_code == 403

"""ModelSync against a registry that is a dict: limits, refusals, lost races."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.registry.fake_registry import FakeRegistry
from vllama_pool.router.errors import ClientError, TooLarge
from vllama_pool.router.virtual_models import sync as sync_module
from vllama_pool.router.virtual_models.acks import ACK_TIMEOUT
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.quota import MAX_MODELS
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.store import MAX_TOMBSTONES, ModelStore
from vllama_pool.router.virtual_models.sync import SAVE_RETRY, ModelSync
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.messages import ModelAck, ModelChanged
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of, sign_model

TRUST = SignaturePolicy("f", b"fleet secret", allow_unsigned=False)
PREFIX = "registry.ollama.ai/library/"


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


def model_sync(
    registry: FakeRegistry,
    *,
    routers: int = 1,
    file: SaveFile | None = None,
    policy: SignaturePolicy = TRUST,
    clock: Callable[[], float] = lambda: 5.0,
) -> ModelSync:
    registry.routers = routers
    return ModelSync(registry, ModelStore(), policy, router_id="me", file=file, clock=clock)


def model(name: str = "v:latest", revision: int = 1, *, system: str = "s", deleted: bool = False) -> VirtualModel:
    base = "" if deleted else "m:latest"
    return VirtualModel(name=name, revision=revision, base=base, system=system, deleted=deleted)


def signed_entry(one: VirtualModel) -> tuple[str, bytes]:
    key = PREFIX + one.name
    return key, sign_model(one, key, fleet="f", secret=b"fleet secret")


async def test_a_change_sets_revision_time_and_digest(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    made = await synced.change(model)
    assert made is not None
    assert (made.revision, made.changed, made.parts_digest) == (5000, 5.0, digest_of(made.parts))
    gone = await synced.change(lambda: model(deleted=True))
    assert gone is not None
    assert (gone.revision, gone.deleted) == (5001, True)
    again = await synced.change(model)
    assert again is not None
    assert again.revision == 5002
    assert list(synced.store.live) == [PREFIX + "v:latest"]


async def test_a_plan_without_a_change_does_not_contact_the_registry(registry: FakeRegistry) -> None:
    registry.unavailable = True
    assert await model_sync(registry).change(lambda: None) is None


async def test_a_change_that_lost_a_race_is_planned_again_on_the_new_state(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    faster = [signed_entry(model(revision=number, system=f"other {number}")) for number in (5007, 5008)]

    def before_put() -> None:
        if faster:
            registry.put(*faster.pop(0))

    registry.before_put = before_put
    seen: list[str] = []

    def decide() -> VirtualModel:
        seen.extend(one.system for one in synced.store.live.values())
        return model(system="mine")

    made = await synced.change(decide)
    assert made is not None
    assert (made.revision, made.system) == (5009, "mine")
    assert seen == ["other 5007", "other 5008"]


async def test_a_change_that_always_loses_the_race_is_a_503(registry: FakeRegistry) -> None:
    revisions = iter(range(1, 1000))
    registry.before_put = lambda: registry.put(*signed_entry(model(revision=next(revisions))))
    with pytest.raises(ClientError, match="other clients are changing this model") as refused:
        await model_sync(registry).change(model)
    assert refused.value.status == 503


async def test_a_registry_outage_is_a_503_without_the_registrys_error_text(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.unavailable = True
    with pytest.raises(ClientError, match="models cannot be changed now") as refused:
        await model_sync(registry).change(model)
    assert refused.value.status == 503
    assert "private" not in refused.value.text
    assert "/somewhere/private" in caplog.text


async def test_models_over_the_size_limits_are_refused(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    with pytest.raises(TooLarge, match="1024 KiB"):
        await synced.change(lambda: model(system="x" * (1 << 20)))
    for number in range(17):
        one = model(f"big{number}:latest", system="x" * 1_000_000)
        registry.put(*signed_entry(one))
    await synced.polled(registry.version)
    with pytest.raises(ClientError, match="delete some") as refused:
        await synced.change(model)
    assert refused.value.status == 507
    await synced.change(lambda: model("big0:latest", deleted=True))
    await synced.change(lambda: model("big1:latest", deleted=True))
    await synced.change(model)


async def test_more_than_the_maximum_number_of_models_is_refused(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    for number in range(MAX_MODELS):
        synced.store.merge(model(f"v{number}:latest"))
    with pytest.raises(ClientError, match="delete some of them") as refused:
        await synced.change(lambda: model("more:latest"))
    assert refused.value.status == 507
    await synced.change(lambda: model("v7:latest"))


async def test_tombstones_beyond_the_limit_are_deleted_from_the_registry(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    for number in range(MAX_TOMBSTONES + 3):
        registry.put(*signed_entry(model(f"v{number}:latest", deleted=True)))
    await synced.polled(registry.version)
    await synced.change(lambda: model("last:latest", deleted=True))
    assert len(registry.entries) == MAX_TOMBSTONES


async def delete_many(one: ModelSync, count: int) -> None:
    for number in range(count):
        await one.change(partial(model, f"v{number}:latest", deleted=True))


async def test_routers_that_only_receive_deletions_drop_the_oldest_tombstones_too(registry: FakeRegistry) -> None:
    clock = partial(next, itertools.count(1.0))
    one, two = model_sync(registry, clock=clock), model_sync(registry, clock=clock)
    await delete_many(one, MAX_TOMBSTONES + 3)
    for event in registry.events:
        await two.changed(event)
    assert two.store.all == one.store.all
    assert len(two.store.all) == MAX_TOMBSTONES


async def test_a_name_whose_tombstone_some_routers_dropped_can_be_created_again(registry: FakeRegistry) -> None:
    clock = partial(next, itertools.count(1.0))
    one, two = model_sync(registry, clock=clock), model_sync(registry, clock=clock)
    for deleted in (False, True, False, True):
        await one.change(partial(model, "again:latest", deleted=deleted))
    await two.polled(registry.version)
    await delete_many(one, MAX_TOMBSTONES)
    await one.change(partial(model, "again:latest"))
    await two.polled(registry.version)
    assert list(two.store.live) == [PREFIX + "again:latest"]
    assert list(registry.entries).count(PREFIX + "again:latest") == 1


async def test_a_forged_entry_does_not_make_a_change_older_than_a_known_deletion(registry: FakeRegistry) -> None:
    clock = partial(next, itertools.count(1.0))
    ahead, behind = model_sync(registry, clock=clock), model_sync(registry, clock=clock)
    await behind.change(partial(model, deleted=True))
    await ahead.polled(registry.version)
    for _ in range(2):
        await ahead.change(partial(model, deleted=True))
    registry.put(PREFIX + "v:latest", b"forged")
    await behind.change(model)
    await ahead.polled(registry.version)
    assert list(ahead.store.live) == [PREFIX + "v:latest"]


async def test_a_change_waits_for_the_acks_of_other_routers_with_a_timeout(registry: FakeRegistry) -> None:
    synced = model_sync(registry, routers=3)
    waiting = asyncio.create_task(synced.change(model))
    for router in ("me", "one", "one"):
        await asyncio.sleep(0)
        synced.acknowledged(ModelAck("e:1:1", router))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    synced.acknowledged(ModelAck("e:1:1", "two"))
    await asyncio.wait_for(waiting, 30)
    began = asyncio.get_running_loop().time()
    await synced.change(model)
    assert asyncio.get_running_loop().time() - began < ACK_TIMEOUT + 5


async def test_an_ack_that_arrives_before_the_registrys_reply_counts(registry: FakeRegistry) -> None:
    synced = model_sync(registry, routers=2)
    registry.before_put = lambda: synced.acknowledged(ModelAck("e:1:1", "other"))
    began = asyncio.get_running_loop().time()
    await synced.change(model)
    assert asyncio.get_running_loop().time() - began < ACK_TIMEOUT


async def test_a_change_of_another_router_is_applied_and_acknowledged_if_asked(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    await synced.polled(registry.version)
    key, envelope = signed_entry(model())
    await synced.changed(ModelChanged(True, "e:0:0", "e:1:1", key, envelope))
    await synced.changed(ModelChanged(False, "e:1:1", "e:2:1", *signed_entry(model(revision=2, system="t"))))
    assert [one.system for one in synced.store.live.values()] == ["t"]
    assert registry.acks == [("e:1:1", "me")]
    registry.unavailable = True
    await synced.polled("e:2:1")  # nothing was missed, so nothing is fetched


async def test_only_entries_that_an_emptied_registry_lacks_are_restored(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    synced = model_sync(registry)
    await synced.polled(registry.version)
    for one in (model("a:latest", 3), model("b:latest", 4, deleted=True), model("c:latest", 5)):
        synced.store.merge(one)
    registry.put(*signed_entry(model("c:latest", 6)))
    registry.put(*signed_entry(model("a:latest", 2)))
    await synced.polled(registry.version)
    assert sorted(registry.puts) == [PREFIX + "a:latest", PREFIX + "b:latest"]
    assert synced.store.live[PREFIX + "c:latest"].revision == 6
    assert "lacks 2" in caplog.text
    registry.puts.clear()
    await synced.polled(registry.version)
    assert registry.puts == []


async def test_routers_with_different_secrets_do_not_flood_the_log(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (
        model_sync(registry),
        model_sync(registry, policy=SignaturePolicy("f", b"another secret", allow_unsigned=False)),
    )
    await one.change(model)
    await two.change(model)
    for _ in range(20):
        await one.polled(registry.version)
        await two.polled(registry.version)
    assert caplog.text.count("lacks 1") == 2
    assert caplog.text.count("signature is wrong") == 2
    assert list(one.store.live) == list(two.store.live) == [PREFIX + "v:latest"]


@pytest.mark.parametrize("envelope", [b"forged", b""])
async def test_an_entry_overwritten_by_an_announced_forgery_is_restored(
    registry: FakeRegistry, envelope: bytes
) -> None:
    synced = model_sync(registry)
    await synced.change(model)
    await synced.polled(registry.version)
    key, before = PREFIX + "v:latest", registry.version
    registry.put(key, envelope)
    await synced.changed(ModelChanged(False, before, registry.version, key, envelope))
    await synced.polled(registry.version)
    fresh = model_sync(registry)
    await fresh.polled(registry.version)
    assert list(fresh.store.live) == [key]


async def test_many_entries_are_restored_over_several_polls(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    count = 2 * sync_module.MAX_RESTORED + 1
    for number in range(count):
        synced.store.merge(model(f"v{number}:latest"))
    for polls in (1, 2, 3):
        await synced.polled(registry.version)
        assert len(registry.entries) == min(polls * sync_module.MAX_RESTORED, count)


async def test_restoring_continues_after_a_registry_outage(registry: FakeRegistry) -> None:
    synced = model_sync(registry)
    for number in range(3):
        synced.store.merge(model(f"v{number}:latest"))

    def before_put() -> None:
        registry.unavailable = len(registry.entries) == 1

    registry.before_put = before_put
    with pytest.raises(RegistryUnavailable):
        await synced.polled(registry.version)
    assert len(registry.entries) < 3
    registry.unavailable, registry.before_put = False, lambda: None
    for event in registry.events:
        await synced.changed(event)
    await synced.polled(registry.version)
    assert len(registry.entries) == 3


async def test_a_refused_entry_is_logged_once_and_overwritten_by_the_next_change(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    key = PREFIX + "v:latest"
    registry.put(key, sign_model(model(revision=99_999), key, fleet="f", secret=None))
    registry.put("no key of ours", b"{")
    synced = model_sync(registry)
    for _ in range(3):
        registry.changes += 1
        await synced.polled(registry.version)
    assert caplog.text.count("is ignored") == 2
    assert dict(synced.store.all) == {}
    made = await synced.change(model)
    assert made is not None
    assert made.revision == 5000


async def test_an_embedded_registry_accepts_unsigned_models(registry: FakeRegistry) -> None:
    synced = model_sync(registry, policy=SignaturePolicy("f", None, allow_unsigned=True))
    await synced.change(model)
    other = model_sync(registry, policy=SignaturePolicy("f", None, allow_unsigned=True))
    await other.polled(registry.version)
    assert other.store.live.keys() == synced.store.live.keys()


async def test_models_of_other_routers_are_saved_to_disk(registry: FakeRegistry, tmp_path: Path) -> None:
    synced = model_sync(registry, file=SaveFile(tmp_path, "f"))
    await synced.changed(ModelChanged(False, "", "", *signed_entry(model())))
    await synced.polled(registry.version)
    assert [one.name for one in SaveFile(tmp_path, "f").load()] == ["v:latest"]


async def test_a_failing_disk_does_not_fail_a_change(registry: FakeRegistry, tmp_path: Path) -> None:
    synced = model_sync(registry, file=SaveFile(tmp_path / "missing", "f"))
    assert await synced.change(model) is not None


async def test_a_failed_save_is_repeated_after_a_pause(registry: FakeRegistry, tmp_path: Path) -> None:
    now = 5.0
    folder = tmp_path / "late"
    synced = model_sync(registry, file=SaveFile(folder, "f"), clock=lambda: now)
    await synced.change(model)
    folder.mkdir()
    await synced.polled(registry.version)
    assert list(folder.iterdir()) == []
    now += SAVE_RETRY
    await synced.polled(registry.version)
    assert [one.name for one in SaveFile(folder, "f").load()] == ["v:latest"]

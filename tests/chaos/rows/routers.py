"""Routers that are killed, stopped, paused, or out of descriptors or disk."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sys
import time

import httpx
import psutil

from tests.chaos.fleet import Plan
from tests.chaos.load import exchange
from tests.chaos.requests import Request
from tests.chaos.row import Rows, Scene
from tests.chaos.rows.registry import table_whole
from tests.support.fleet.programs import Serve
from tests.support.ports import free_ports
from tests.support.processes import is_alive

FEW = Plan()
"""A fleet of its own, because its routers get a limit of descriptors that they cannot raise again."""
DESCRIPTORS = 256
STREAMS = 5
"""A `vllama serve` is killed within so many."""


def add(rows: Rows) -> None:
    rows.row(
        "F19",
        "router killed",
        "Only the streams of the killed router break; workers stop them, the other router takes the rest.",
        may_lose=True,
    )(killed)
    rows.row("F20", "routers stopped and restarted in turn", "A rolling restart ends no request.")(rolling_restart)
    rows.row(
        "F36",
        "more connections than a router has descriptors",
        "New clients are refused, none is lost, and the router is back when descriptors are free.",
        plan=FEW,
        allowed=["503"],
    )(no_descriptors)
    rows.row("F37", "disk full", "Routers that cannot write a log or a file still serve.")(disk_full)
    rows.row("F38", "event loop blocked for two seconds", "A router that was away expels no worker.")(blocked)
    rows.row("F40", "vllama serve killed", "Streams end first, then nothing of it remains; it starts again.")(
        parent_killed
    )


async def killed(scene: Scene) -> None:
    victim, other = scene.fleet.routers
    async with scene.load().running() as load:
        await load.until_complete(50)
        victim.kill()
        died = time.monotonic()

        async def only_the_other() -> bool:
            running = [(await worker.stats()).get("running", 0) for worker in scene.fleet.workers]
            page = await other.workers()
            return int(sum(running)) <= sum(int(one["in_flight"]) for one in page.values())

        await scene.recovers(only_the_other, 5, "workers stopped the requests of the killed router", since=died)
        await load.until_complete(50)
    wrong = [one for one in load.outcomes if one.lost and (one.port != victim.port or one.started > died)]
    scene.check(not wrong, f"{len(wrong)} requests are lost that the killed router had not taken")
    scene.notes.append(f"{sum(one.lost for one in load.outcomes)} requests broke with the router")
    await scene.recovers(scene.fleet.at_rest, 5, "no request is left")


async def rolling_restart(scene: Scene) -> None:
    async with scene.load().running() as load:
        await load.until_complete(25)
        for router in scene.fleet.routers:
            start = time.monotonic()
            router.signal(signal.SIGTERM)
            await scene.recovers(lambda router=router: router.code is not None, 30, "the router ends", since=start)  # type: ignore[misc]
            scene.check(router.code == 0, f"{router.name} ended with {router.code}")
            router.start()
            await router.wait_ready()
            await scene.until(scene.fleet.whole, 10, "the new router sees the fleet")
            await load.until_complete(25)


async def no_descriptors(scene: Scene) -> None:
    router = scene.fleet.routers[0]
    process = psutil.Process(router.pid)
    psutil_limit = getattr(process, "rlimit", None)
    if psutil_limit is None:
        from tests.chaos.row import Skipped

        raise Skipped("this system cannot limit the descriptors of a running process")
    psutil_limit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    held: list[socket.socket] = []
    async with scene.load(clients=10).running() as load:
        await load.until_complete(10)
        try:
            for _ in range(DESCRIPTORS + 50):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", router.port))
                held.append(one)

            async def is_answered() -> bool:
                outcome = await exchange(Request("is there a place", 1), [router.port], patience=5)
                load.outcomes.append(outcome)
                return not outcome.lost

            await scene.holds(is_answered, scene.size(2, 10), "the router answers or refuses each client")
            refused = sum(one.verdict.kind == "503" for one in load.outcomes)
            scene.notes.append(f"{process.num_fds()} of {DESCRIPTORS} descriptors in use while clients are refused")
            scene.check(refused > 0, "no client was refused")
        finally:
            for one in held:
                one.close()

        async def answers() -> bool:
            outcome = await exchange(Request("are you back", 1), [router.port], patience=2)
            return not outcome.lost and not outcome.verdict.kind

        await scene.recovers(answers, 2, "the router answers again")
        await load.until_complete(20)
    scene.check(router.alive, "the router crashed")


async def disk_full(scene: Scene) -> None:
    """No file of the routers can grow, their logs included: writes fail as on a full disk."""
    processes = [psutil.Process(router.pid) for router in scene.fleet.routers]
    async with scene.load().running() as load:
        await load.until_complete(25)
        for process in processes:
            process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        sizes = [router.log.stat().st_size for router in scene.fleet.routers]
        try:
            await load.until_complete(100)
        finally:
            grown = [router.log.stat().st_size for router in scene.fleet.routers]
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await load.until_complete(25)
    scene.check(grown == sizes, "the logs grew, so the disk was not full")
    scene.check(all(router.alive for router in scene.fleet.routers), "a router ended")


async def blocked(scene: Scene) -> None:
    """A stopped process sees the same as one whose event loop is blocked."""
    router = scene.fleet.routers[0]
    async with scene.load().running() as load:
        await load.until_complete(25)
        router.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(2)
        finally:
            router.signal(signal.SIGCONT)
        await scene.recovers(lambda: exchange_works(router.port), 2, "the router answers")
        await scene.holds(scene.fleet.whole, 2, "each worker is ready")
        await scene.holds(table_whole(scene), 1, "routers know all workers")
        await load.until_complete(25)


async def exchange_works(port: int) -> bool:
    outcome = await exchange(Request("are you there", 1), [port], patience=5)
    return not outcome.lost and not outcome.verdict.kind


async def parent_killed(scene: Scene) -> None:
    """Kill `vllama serve` within streams, and start it again with the same state, ports and model.

    Its Valkey ends at once. Its routers and workers end the streams first, as in a drain.
    """
    folder = scene.fleet.folder / "serve"
    folder.mkdir(exist_ok=True)
    port, of_worker = free_ports(), free_ports()
    words = [sys.executable, "-m", "vllama_pool.router.cli.main", "serve", "--port", str(port), "--model", "m"]
    words += ["--vllm-port", str(of_worker), "--engine", "simulated"]
    for attempt in ("first", "second"):
        serve = Serve(words, {"VLLAMA_STATE_DIR": str(folder / "state")}, folder / f"{attempt}.log")
        scene.resources.push_async_callback(asyncio.to_thread, serve.end)
        await scene.until(lambda serve=serve: serve.says("ready. Try:"), 40, f"the {attempt} vllama serve is ready")  # type: ignore[misc]
        async with scene.load(ports=lambda: [port], clients=10, tokens=10).running() as load:
            await load.until_complete(20)
        tree = [serve.process, *serve.descendants()]
        scene.check(len(tree) >= 5, f"only {len(tree)} processes")
        valkey = serve.valkey
        assert valkey is not None, "there is no Valkey"
        requests = [Request(f"{attempt} {number}", 60) for number in range(STREAMS)]
        streams = [asyncio.create_task(exchange(request, [port])) for request in requests]
        await scene.until(lambda: runs(of_worker, STREAMS), 10, "all streams are within their answers")
        start = time.monotonic()
        serve.process.kill()
        await scene.recovers(lambda valkey=valkey: not is_alive(valkey), 1, "Valkey is gone", since=start)  # type: ignore[misc]
        load.outcomes += await asyncio.gather(*streams)
        start = time.monotonic()
        await scene.recovers(lambda tree=tree: not any(map(is_alive, tree)), 3, "no process remains", since=start)  # type: ignore[misc]
        scene.check(not serve.left(), f"there still are {serve.left()}")


async def runs(port: int, count: int) -> bool:
    """Return True if a simulated worker runs so many requests."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
        return bool((await http.get(f"http://127.0.0.1:{port}/simulated/stats")).json()["running"] == count)

"""Workers that die, freeze, flap, slow down or hang behind a green health page, while clients send without pause."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.agents import agent, wait_for
from tests.support.fleet.live import Fleet, fleet
from tests.support.own_time import OwnTime, own_time
from tests.support.ports import free_ports
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.model_folder import write_model
from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

pytestmark = [pytest.mark.load, pytest.mark.timeout(300)]

MODEL = "tiny:latest"
TOKENS = 13
"""Tokens per answer: twelve and the end of the sequence."""
QUICK = Options(model=MODEL, tokens_per_second=200, ttft=0.01, answer_tokens=12, slots=32)
THREE = {"a": QUICK, "b": QUICK, "ill": QUICK}
CHAT = "/v1/chat/completions"
HOLD = 3.0
"""Seconds after a refused connection until a request tries the worker again."""
LITTLE = 0.2 / 3
"""A fifth of the share of one in three workers."""
PATIENCE = 3.0
"""Factor for what other processes must do in time, on a machine that others use too."""
Figures = Callable[[str, object], None]


@pytest.fixture
async def clock() -> AsyncIterator[OwnTime]:
    """A machine that runs others for seconds keeps this process from its promises, so that does not count."""
    async with own_time() as running:
        yield running


@dataclass
class Traffic:
    clock: OwnTime
    answered: int = 0
    slowest: float = 0.0
    """Seconds."""
    failed: list[str] = field(default_factory=list)


async def ask(running: Fleet, results: Traffic) -> None:
    began = results.clock.now
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": False}
    response = await running.http.post("/api/chat", json=body)
    results.slowest = max(results.slowest, results.clock.now - began)
    if response.status_code == 200 and response.json().get("eval_count") == TOKENS:
        results.answered += 1
    else:
        results.failed.append(f"{response.status_code} {response.text[-300:]}")


@asynccontextmanager
async def traffic(running: Fleet, clock: OwnTime, clients: int) -> AsyncIterator[Traffic]:
    """Run clients that never pause."""
    results, stopping = Traffic(clock), asyncio.Event()

    async def client() -> None:
        while not stopping.is_set():
            await ask(running, results)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
        try:
            yield results
        finally:
            stopping.set()


async def view(running: Fleet, worker_id: str) -> dict[str, Any]:
    page = (await running.http.get("/admin/workers")).json()
    return next(worker for worker in page["workers"] if worker["id"] == worker_id)


async def ready_model(running: Fleet) -> dict[str, Any]:
    page = (await running.http.get("/readyz", params={"model": MODEL})).json()
    model: dict[str, Any] = page["models"][MODEL]
    return model


async def _two_available(running: Fleet) -> bool:
    return bool((await ready_model(running))["available"] == 2)


async def test_an_idle_worker_that_is_killed_costs_no_request_and_few_refused_connections(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    async with fleet(tmp_path, THREE) as running:
        running["ill"].vanish()
        await running.workers["ill"].fall_silent()
        killed, began = clock.now, time.monotonic()
        results = Traffic(clock)

        async def is_out() -> bool:
            await ask(running, results)
            return (await view(running, "ill"))["state"] == "down"

        await auntil(is_out, 12, "the worker to be down")
        seconds = clock.now - killed
        lost = sum(len(record.get("failures") or ()) for record in running.records())
        record_property(
            "figure", f"idle worker killed: {results.answered} requests, 0 failed, {lost} refused; down {seconds:.1f} s"
        )
        assert results.failed == []
        assert lost <= 1 + (time.monotonic() - began) // HOLD
        assert seconds <= 8


async def test_a_worker_that_dies_on_a_requests_arrival_costs_it_seconds_at_most(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    async with fleet(tmp_path, THREE) as running:
        results = Traffic(clock)
        for name in ("a", "ill"):
            running[name].set_faults([faults.Die(paths=(CHAT,))])
        for _ in range(6):
            await ask(running, results)
        record_property("figure", f"two of three workers die on arrival: 6 requests, slowest {results.slowest:.2f} s")
        assert (results.answered, results.failed) == (6, [])
        assert results.slowest < 5


async def test_a_worker_that_hangs_behind_a_green_health_page_is_taken_out_and_comes_back(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    """It beats, answers /health with 200 and accepts requests, but generates nothing."""
    async with fleet(tmp_path, THREE, canary=1.0) as running:
        await ready_model(running)
        running["ill"].set_faults([faults.Hang()])
        hung = clock.now

        async def is_silent() -> bool:
            await ready_model(running)
            return (await view(running, "ill"))["breaker"] == "silent"

        await auntil(is_silent, 10, "the worker to be silent")
        found = clock.now - hung
        assert (await view(running, "ill"))["note"] == "it answers its health checks, but generates nothing"
        await auntil(lambda: _two_available(running), 30, "the others to be available")
        before = running["ill"].requests[CHAT]
        results = Traffic(clock)
        for _ in range(30):
            await ask(running, results)
        assert (results.answered, running["ill"].requests[CHAT]) == (30, before)
        running["ill"].set_faults([])
        healed = clock.now

        async def is_back() -> bool:
            return (await view(running, "ill"))["breaker"] == "closed"

        await auntil(is_back, 10, "the worker to be back")
        back = clock.now - healed
        metrics = (await running.http.get("/metrics")).text
        record_property("figure", f"silent worker, canary after 1 s: out after {found:.1f} s, back after {back:.1f} s")
        assert 'vllama_canaries_total{result="silent"}' in metrics
        assert 'operation="generate"' not in metrics, "canaries are no requests of clients"
        assert back < 5


async def test_requests_that_wait_at_a_worker_that_hangs_move_to_another(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    async with fleet(tmp_path, THREE, canary=1.0) as running:
        running["ill"].set_faults([faults.Hang()])
        results = Traffic(clock)
        await asyncio.gather(*(ask(running, results) for _ in range(12)))
        await auntil(lambda: len(running.records()) == 12, 5, "the log to be written")
        moved = sum(bool(record.get("failures")) for record in running.records())
        record_property(
            "figure", f"worker hangs under traffic: 12 requests, {moved} moved, slowest {results.slowest:.1f} s"
        )
        assert (results.answered, results.failed) == (12, [])
        assert moved > 0
        assert results.slowest < 10


@pytest.mark.parametrize("kind", ["registered", "static"])
async def test_a_dead_engine_behind_a_live_server_is_out_at_its_first_answer(
    kind: str, tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    """A registered one goes on to beat."""
    async with Simulated(QUICK) as static:
        workers = THREE if kind == "registered" else {"a": QUICK, "b": QUICK}
        table = routing_table(workers=[{"url": static.url}]) if kind == "static" else None
        async with fleet(tmp_path, workers, table=table) as running:
            ill = running["ill"] if kind == "registered" else static
            async with traffic(running, clock, 8) as results:
                await auntil(lambda: ill.requests[CHAT] > 3, 20, "the worker to get requests")
                ill.set_faults([faults.Dead()])
                before, died = ill.requests[CHAT], time.monotonic()
                enough = results.answered + 200
                await auntil(lambda: results.answered > enough and time.monotonic() - died > 5, 60, "other answers")
                met = ill.requests[CHAT] - before
            record_property(
                "figure",
                f"dead engine ({kind}): {results.answered} requests, {len(results.failed)} failed, {met} met it, "
                f"slowest {results.slowest:.2f} s",
            )
            assert results.failed == []
            assert met <= 8 + 2  # those that were on their way, and a probe


async def test_a_worker_that_flaps_gets_little_of_the_traffic(
    tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    """Up for two seconds and down for two, while its agent beats."""
    async with fleet(tmp_path, THREE) as running, traffic(running, clock, 12) as results:
        await auntil(lambda: results.answered > 50, 20)
        before = {name: running[name].requests[CHAT] for name in THREE}
        for _ in range(4):
            running["ill"].vanish()
            await asyncio.sleep(2)  # the rhythm is the fault
            await running["ill"].listen()
            await asyncio.sleep(2)
        made = {name: running[name].requests[CHAT] - before[name] for name in THREE}
        share = made["ill"] / sum(made.values())
        lost = sum(len(record.get("failures") or ()) for record in running.records())
        record_property(
            "figure",
            f"flapping worker: {results.answered} requests, {len(results.failed)} failed, {lost} attempts lost, its "
            f"share {share:.1%}",
        )
        assert results.failed == []
        assert share <= 0.1


@pytest.mark.parametrize("clients", [30, 6, 2])
async def test_a_worker_that_is_ten_times_slower_gets_a_fifth_of_its_share(
    clients: int, tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    """Ten seconds after it became slow at the latest. Answers to many clients take longer, because a busy machine must
    not decide how long they take."""
    workers = dict.fromkeys(THREE, replace(QUICK, tokens_per_second=40 if clients > 10 else 200))
    async with fleet(tmp_path, workers) as running, traffic(running, clock, clients) as results:

        async def share(answers: int) -> float:
            before = {name: running[name].requests[CHAT] for name in THREE}
            enough = results.answered + answers
            await auntil(lambda: results.answered > enough, 120)
            made = {name: running[name].requests[CHAT] - before[name] for name in THREE}
            return made["ill"] / sum(made.values())

        window = max(40, 3 * clients)
        usual = max([await share(window) for _ in range(2)])
        running["ill"].set_faults([faults.Slow(factor=10.0)])
        slow = clock.now
        shares = [await share(window)]
        while len(shares) < 2 or max(shares[-2:]) > LITTLE:
            assert clock.now - slow < 10 * PATIENCE, f"its shares were {shares}"
            shares.append(await share(window))
        record_property(
            "figure",
            f"one of three workers 10x slow, {clients} clients: its share fell from {usual:.1%} to {shares[-1]:.1%} "
            f"within {clock.now - slow:.1f} s",
        )
        assert results.failed == []
        assert usual > 0.2


@pytest.mark.parametrize("frozen", ["vLLM", "vLLM and agent"])
async def test_a_frozen_idle_worker_is_avoided_within_seconds_and_back_soon_after_it_thaws(
    frozen: str, tmp_path: Path, clock: OwnTime, record_property: Figures
) -> None:
    model = str(write_model(tmp_path / "tiny", chat_template_dot_jinja="{{ messages }}"))
    args = ("--model", model, "--name", "w", "--port", str(free_ports()))
    async with (
        fleet(tmp_path, {}, wait=False) as running,
        agent(*args, state_dir=tmp_path) as process,
    ):
        entry = await wait_for(running.registry, "w", WorkerState.READY)
        await running.until_state("w", "ready")
        stopped = [entry.record.pid, *([process.process.pid] if "agent" in frozen else [])]

        async def is_avoided() -> bool:
            return await state_of(running, "w") != ("ready", "closed")

        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = clock.now
            await auntil(is_avoided, 10, "the frozen worker to be avoided")
            avoided = clock.now - began
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        began = clock.now

        async def is_back() -> bool:
            return await state_of(running, "w") == ("ready", "closed")

        await auntil(is_back, 10, "the worker to be back")
        back = clock.now - began
    record_property("figure", f"frozen {frozen}: avoided after {avoided:.1f} s, back {back:.1f} s after SIGCONT")
    assert avoided <= 4.2 * PATIENCE
    assert back <= 2 * PATIENCE


async def state_of(running: Fleet, worker_id: str) -> tuple[str, str]:
    worker = await view(running, worker_id)
    return worker["state"], worker["breaker"]

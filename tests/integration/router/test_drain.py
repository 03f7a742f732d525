"""`vllama drain` and `vllama undrain` on a running router: effect, output and exit codes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.routing.table import RoutingTable, parse
from vllama_pool.router.cli.main import main
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

FAST = Options(model="tiny", tokens_per_second=2000, answer_tokens=8, slots=8)
SLOW = Options(model="tiny", tokens_per_second=20, answer_tokens=40, slots=8)


async def vllama(running: Fleet, *words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, [*words, "--url", running.url])


async def generate(running: Fleet, model: str = "tiny") -> int:
    return (await running.http.post("/api/generate", json={"model": model, "prompt": "x"})).status_code


def hold(running: Fleet) -> None:
    """Make every worker so slow that its answers last until the test lets it go."""
    for announced in running.workers.values():
        announced.worker.set_faults([faults.Slow(factor=50)])


def let_go(running: Fleet) -> None:
    for announced in running.workers.values():
        announced.worker.set_faults([])


def served(worker: Simulated) -> int:
    return sum(worker.requests.values())


async def test_a_drained_worker_finishes_its_requests_and_gets_no_others_until_undrain(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": SLOW, "b": SLOW}) as running:
        hold(running)
        requests = [asyncio.create_task(generate(running)) for _ in range(6)]
        await auntil(lambda: running["a"].running and running["a"].running + running["b"].running == 6, 10)
        drained = await vllama(running, "drain", "a")
        assert (drained.exit_code, drained.stderr) == (0, "")
        assert drained.stdout == "a is draining: it gets no new requests until vllama undrain a\n"
        before = served(running["a"])
        let_go(running)
        assert [await generate(running) for _ in range(4)] == [200] * 4
        assert await asyncio.gather(*requests) == [200] * 6
        assert served(running["a"]) == before
        assert await running.states() == {"a": "draining (asked)", "b": "ready"}
        again = await vllama(running, "drain", "a")
        assert again.stdout == "a is already draining: it gets no new requests until vllama undrain a\n"
        back = await vllama(running, "undrain", "a")
        assert (back.exit_code, back.stdout) == (0, "a gets requests again\n")
        assert (await vllama(running, "undrain", "a")).stdout == "a is not drained\n"
        assert await running.states() == {"a": "ready", "b": "ready"}
        await auntil(lambda: _gets_one(running, before), 20, "the worker to get requests again")


async def _gets_one(running: Fleet, before: int) -> bool:
    await generate(running)
    return served(running["a"]) > before


async def test_a_model_whose_only_worker_is_drained_is_refused_with_retry_after(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": FAST}) as running:
        await vllama(running, "drain", "a")
        refused = await running.http.post("/api/generate", json={"model": "tiny", "prompt": "x"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json() == {
            "error": "no worker is available for model 'tiny': its workers are out: 1 draining (asked)"
        }
        listed = (await running.http.get("/api/tags")).json()["models"]
        assert [each["name"] for each in listed] == ["tiny:latest"]


async def test_drain_wait_returns_when_the_worker_is_idle(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": SLOW, "b": SLOW}) as running:
        hold(running)
        requests = [asyncio.create_task(generate(running)) for _ in range(4)]
        await auntil(lambda: running["a"].running > 0, 10)
        waiting = asyncio.create_task(vllama(running, "drain", "a", "--wait", "--timeout", "1m"))
        await running.until_state("a", "draining (asked)")
        let_go(running)
        waited = await waiting
        assert running["a"].running == 0
        assert waited.exit_code == 0, waited.output
        first, *progress, last = waited.stdout.splitlines()
        assert first == "a is draining: it gets no new requests until vllama undrain a"
        assert progress
        assert all(line.startswith("waiting: a: ") for line in progress)
        assert progress[-1] == "waiting: a: 0 running, 0 waiting, 0 from this router"
        assert last.startswith("a has no requests: drained after ")
        assert await asyncio.gather(*requests) == [200] * 4


async def test_drain_wait_says_after_its_time_limit_what_still_runs(tmp_path: Path) -> None:
    endless = Options(model="tiny", tokens_per_second=5, answer_tokens=500, slots=8)
    async with fleet(tmp_path, {"a": endless}) as running:
        request = asyncio.create_task(generate(running))
        await auntil(lambda: running["a"].running == 1, 10)
        late = await vllama(running, "drain", "a", "--wait", "--timeout", "1500ms")
        assert late.exit_code == 1
        assert late.stderr == (
            "vllama: not idle after 1.5 s: a: 1 running, 0 waiting, 1 from this router; "
            "it stays drained: wait again, or vllama undrain a\n"
        )
        request.cancel()


@pytest.mark.parametrize("command", ["drain", "undrain"])
async def test_an_unknown_worker_is_exit_code_2_with_the_known_and_the_nearest(tmp_path: Path, command: str) -> None:
    async with fleet(tmp_path, {"gpu-a1": FAST, "gpu-b1": FAST}) as running:
        unknown = await vllama(running, command, "gpu-b2")
        assert (unknown.exit_code, unknown.stdout) == (2, "")
        assert unknown.stderr == "vllama: there is no worker 'gpu-b2'; did you mean gpu-b1? known: gpu-a1, gpu-b1\n"


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        ("soon", "'soon' is not a duration; write seconds, or a duration such as 30s, 5m or 1h30m"),
        ("0", "the time must be above 0; write one such as 10m"),
        ("-5s", "the time must be above 0; write one such as 10m"),
    ],
)
def test_an_unusable_time_limit_is_refused_before_anything_is_drained(timeout: str, text: str) -> None:
    result = CliRunner().invoke(main, ["drain", "a", "--wait", "--timeout", timeout, "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert text in result.stderr


def test_without_a_router_the_command_says_how_to_reach_one() -> None:
    result = CliRunner().invoke(main, ["drain", "a", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("vllama: no router answers at http://127.0.0.1:1 (")


async def test_a_static_worker_is_drained_by_its_name_in_the_routing_file(tmp_path: Path) -> None:
    async with Simulated(FAST) as worker:
        table: RoutingTable = parse(f"workers: [{{name: box, url: '{worker.url}'}}]".encode())
        async with fleet(tmp_path, {"a": FAST}, table=table) as running:
            drained = await vllama(running, "drain", "box", "--wait")
            assert drained.exit_code == 0, drained.output
            assert drained.stdout.startswith("static/box is draining: ")
            before = served(running["a"])
            assert [await generate(running) for _ in range(6)] == [200] * 6
            assert served(running["a"]) == before + 6
            assert await running.states() == {"a": "ready", "static/box": "draining (asked)"}


async def test_a_drain_survives_a_flush_and_the_restart_of_the_worker(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": FAST, "b": FAST}) as running:
        await vllama(running, "drain", "a")
        await running.registry._redis.flushall()
        await auntil(lambda: _registered(running, {"a", "b"}), 10, "the workers to register again")
        await auntil(lambda: _wants(running, {"a"}), 10, "the drain to be restored")
        restarted = running.workers["a"]
        await restarted.fall_silent()
        await running.registry.deregister("a", 1)
        await auntil(lambda: _states(running, {"b": "ready"}), 10, "the worker to leave")
        ps = await vllama(running, "ps")
        assert "a is drained and absent; vllama undrain a ends that" in ps.stdout
        await restarted.join()
        await auntil(lambda: _states(running, {"a": "draining (asked)", "b": "ready"}), 10, "the worker to be back")


async def _wants(running: Fleet, expected: set[str]) -> bool:
    return set((await running.registry.snapshot()).wants) == expected


async def _registered(running: Fleet, expected: set[str]) -> bool:
    return set((await running.registry.snapshot()).records or ()) == expected


async def _states(running: Fleet, expected: dict[str, str]) -> bool:
    return await running.states() == expected


async def test_without_the_registry_nothing_is_drained(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": FAST}) as running:
        await running.valkey.stop()
        refused = await vllama(running, "drain", "a")
        assert refused.exit_code == 1
        assert f"{running.url} answered 503: nothing was changed: " in refused.stderr
        assert await generate(running) == 200


async def test_ps_shows_the_state_and_the_running_requests(tmp_path: Path) -> None:
    async with fleet(tmp_path, {"a": SLOW}) as running:
        hold(running)
        request = asyncio.create_task(generate(running))
        await auntil(lambda: running["a"].running == 1, 10)
        await vllama(running, "drain", "a")

        async def shown() -> bool:
            line = (await vllama(running, "ps")).stdout.splitlines()[1]
            return "draining (asked)" in line and " 1/8 " in line

        await auntil(shown, 10, "the line of the worker")
        let_go(running)
        assert await request == 200

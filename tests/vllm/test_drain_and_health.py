"""Drains, a lost agent, readiness and a frozen server, with two real vLLMs and their agents."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.fleet.agents import AgentProcess, agent
from tests.support.fleet.live import Fleet, fleet
from tests.support.fleet.streams import Stream, chat_body, streaming
from tests.support.until import auntil
from tests.support.vllm.servers import VllmServer

Figures = Callable[[str, object], None]
Pair = tuple[VllmServer, VllmServer]
STREAMS = 6
TOKENS = 120


@asynccontextmanager
async def attached(
    folder: Path, pair: Pair, **settings: Any
) -> AsyncIterator[tuple[Fleet, tuple[AgentProcess, AgentProcess]]]:
    """A router, and agents a and b attached to the servers."""
    async with fleet(folder, {}, **settings) as running:
        first, second = pair
        async with (
            agent("--attach", first.url, "--name", "a", state_dir=folder) as a,
            agent("--attach", second.url, "--name", "b", state_dir=folder) as b,
        ):
            await until_states(running, {"a": "ready", "b": "ready"}, 90)
            running.http.timeout = 300
            yield running, (a, b)


async def until_states(running: Fleet, states: dict[str, str], seconds: float) -> None:
    async def reached() -> bool:
        return await running.states() == states

    await auntil(reached, seconds, f"the workers to be {states}")


async def command(running: Fleet, *words: str) -> tuple[int, str]:
    """Run a `vllama` command. Return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllama_pool.router.cli.main", *words, "--url", running.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def workers_of(running: Fleet, streams: list[Stream]) -> list[str]:
    return [str((await running.record(one.id))["worker"]) for one in streams]


async def answered_by(running: Fleet, name: str, count: int = 8) -> set[str]:
    """Return the workers that answer this many short requests at once."""
    async with streaming(f"{running.url}/api/chat", chat_body(3), count, name) as (streams, tasks):
        await asyncio.gather(*tasks)
    assert all(one.complete for one in streams)
    return set(await workers_of(running, streams))


async def test_a_drained_vllm_finishes_its_streams_and_serves_again_after_undrain(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    async with attached(tmp_path, smollm2_pair) as (running, _):
        async with streaming(f"{running.url}/api/chat", chat_body(TOKENS), STREAMS, "drained") as (streams, tasks):
            await auntil(lambda: all(one.has_content for one in streams), 60, "all streams to have begun")
            asked = time.monotonic()
            waiting = asyncio.create_task(command(running, "drain", "a", "--wait", "--timeout", "120s"))
            await until_states(running, {"a": "draining (asked)", "b": "ready"}, 30)
            still = sum(not task.done() for task in tasks)
            assert await answered_by(running, "beside") == {"b"}
            await asyncio.gather(*tasks)
        done = time.monotonic() - asked
        code, output = await waiting
        waited = time.monotonic() - asked
        assert code == 0, output
        assert "drained after" in output
        assert all(one.complete and one.tokens == TOKENS for one in streams)
        workers = await workers_of(running, streams)
        assert "a" in workers
        record_property(
            "figure",
            f"vllama drain --wait with {workers.count('a')} streams on the worker ({still} of {STREAMS} in progress): "
            f"the last ended after {done:.1f} s, the command after {waited:.1f} s; 0 lost",
        )
        code, output = await command(running, "undrain", "a")
        assert code == 0, output
        await until_states(running, {"a": "ready", "b": "ready"}, 10)
        assert "a" in await answered_by(running, "again")


async def test_an_agent_that_gets_sigterm_loses_no_stream_of_its_attached_vllm(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    async with attached(tmp_path, smollm2_pair) as (running, (a, _)):
        async with streaming(f"{running.url}/api/chat", chat_body(TOKENS), STREAMS, "sigterm") as (streams, tasks):
            await auntil(lambda: all(one.has_content for one in streams), 60, "all streams to have begun")
            a.signal(signal.SIGTERM)
            assert await a.exit_code(60) == 0
            await until_states(running, {"b": "ready"}, 30)
            still = sum(not task.done() for task in tasks)
            assert await answered_by(running, "beside") == {"b"}
            await asyncio.gather(*tasks)
        assert all(one.complete and one.tokens == TOKENS for one in streams)
        workers = await workers_of(running, streams)
        assert "a" in workers
        assert smollm2_pair[0].alive, "the agent did not start it, so it does not stop it"
        record_property(
            "figure",
            f"SIGTERM to the agent of an attached vLLM with {workers.count('a')} streams ({still} of {STREAMS} went on "
            "when it had left): 0 lost",
        )


async def test_a_frozen_vllm_is_found_and_loses_no_stream(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    """SIGSTOP to all of its processes: its connections stay open, and nothing is answered."""
    async with attached(tmp_path, smollm2_pair, canary=1.0) as (running, _):
        await until_answered(running, 2)  # by canaries: no client has asked
        async with streaming(f"{running.url}/api/chat", chat_body(TOKENS), STREAMS, "frozen") as (streams, tasks):
            await auntil(lambda: all(one.has_content for one in streams), 60, "all streams to have begun")
            with frozen(smollm2_pair[0]):
                stopped = time.monotonic()
                await auntil(lambda: _is_out(running), 60, "the frozen worker to be out")
                out = time.monotonic() - stopped
                assert await answered_by(running, "beside") == {"b"}
                await asyncio.gather(*tasks)
                done = time.monotonic() - stopped
                await until_answered(running, 1)
            await until_states(running, {"a": "ready", "b": "ready"}, 60)
            await until_answered(running, 2)
        assert all(one.complete and one.tokens == TOKENS for one in streams), [one.errors for one in streams]
        assert done < 110, "the streams of the frozen worker wait for none of the long time limits"
        records = [await running.record(one.id) for one in streams]
        resumed = sum(bool(record.get("resumed")) for record in records)
        record_property(
            "figure",
            f"SIGSTOP of a vLLM with {STREAMS} streams on two: out after {out:.1f} s, {resumed} resumed, "
            f"all done after {done:.1f} s, 0 lost",
        )
        assert resumed


@contextmanager
def frozen(server: VllmServer) -> Iterator[None]:
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


async def _is_out(running: Fleet) -> bool:
    model = await ready_model(running)
    return bool(model["available"] == 1)


async def until_answered(running: Fleet, count: int) -> None:
    """Wait until `/readyz` says that so many available workers have lately produced a token."""

    async def answered() -> bool:
        return bool((await ready_model(running))["answered"] == count)

    await auntil(answered, 60, f"{count} workers to have answered", interval=0.2)


async def ready_model(running: Fleet) -> dict[str, Any]:
    page = (await running.http.get("/readyz")).json()
    model: dict[str, Any] = next(iter(page["models"].values()))
    return model

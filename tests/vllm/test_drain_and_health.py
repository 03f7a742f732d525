"""Drains, a lost agent, readiness and a frozen server, with two real vLLMs and their agents.

A frozen engine keeps streams in progress until the test goes on: its server answers, and generates nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.fleet.agents import AgentProcess, agent
from tests.support.fleet.live import PATIENT, PATIENT_ENV, Fleet, fleet
from tests.support.fleet.streams import Stream, chat_body, streaming
from tests.support.until import auntil
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer, frozen

Figures = Callable[[str, object], None]
Pair = tuple[VllmServer, VllmServer]
STREAMS = 12
"""Both workers get some of them, even if one has a tenth of its weight, in its slow start."""
TOKENS = 60
LONG = 400
"""Tokens of an answer of many seconds: it has not ended when its server freezes."""
CANARY = 10.0
SOON_FOUND = {"VLLAMA_PROBE_TIMEOUT": "3"}
"""For an agent whose vLLM freezes: it reports that after 9 s, and a busy one hardly."""
UNLIMITED = 3600.0
"""Seconds, longer than a test may take."""


@asynccontextmanager
async def attached(
    folder: Path, pair: Pair, *, first_env: dict[str, str] = PATIENT_ENV, **settings: Any
) -> AsyncIterator[tuple[Fleet, tuple[AgentProcess, AgentProcess]]]:
    """A router, and agents a and b attached to the servers. `first_env`: the environment of a."""
    async with fleet(folder, {}, **PATIENT, **settings) as running:
        first, second = pair
        async with (
            agent("--attach", first.url, "--name", "a", state_dir=folder, env=first_env) as a,
            agent("--attach", second.url, "--name", "b", state_dir=folder, env=PATIENT_ENV) as b,
        ):
            await until_states(running, {"a": "ready", "b": "ready"})
            running.http.timeout = ANSWER_TIMEOUT
            yield running, (a, b)


async def until_states(running: Fleet, states: dict[str, str]) -> None:
    async def reached() -> bool:
        return await running.states() == states

    await auntil(reached, 120, f"the workers to be {states}")


async def until_in_progress(running: Fleet, worker: str, count: int = 1) -> None:
    async def reached() -> bool:
        page = (await running.http.get("/admin/workers")).json()
        return bool({one["id"]: one["in_flight"] for one in page["workers"]}[worker] >= count)

    await auntil(reached, 60, f"{worker} to have {count} requests")


async def command(running: Fleet, *words: str) -> tuple[int, str]:
    """Run a `vllama` command. Return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllama_pool.router.cli.main", *words, "--url", running.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def drain(running: Fleet, worker: str, *, drain: bool) -> None:
    """Ask as `vllama drain` and `vllama undrain` do, without the time that a command takes to start."""
    answer = await running.http.post("/admin/drain", json={"worker": worker, "drain": drain})
    assert answer.status_code == 200, answer.text
    state = "draining (asked)" if drain else "ready"

    async def reached() -> bool:
        return (await running.states())[worker] == state

    await auntil(reached, 60, f"{worker} to be {state}")


async def workers_of(running: Fleet, streams: list[Stream]) -> list[str]:
    return [str((await running.record(one.id))["worker"]) for one in streams]


async def answered_by(running: Fleet, name: str) -> set[str]:
    """Return the workers that answer many short requests at once."""
    async with streaming(f"{running.url}/api/chat", chat_body(3), STREAMS, name) as (streams, tasks):
        await asyncio.gather(*tasks)
    assert all(one.complete for one in streams)
    return set(await workers_of(running, streams))


async def test_a_drained_vllm_finishes_its_streams_and_serves_again_after_undrain(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    async with attached(tmp_path, smollm2_pair) as (running, _):
        async with streaming(f"{running.url}/api/chat", chat_body(TOKENS), STREAMS, "drained") as (streams, tasks):
            with frozen(smollm2_pair[0].engine()):  # before a stream is sent
                await until_in_progress(running, "a")
                waiting = asyncio.create_task(command(running, "drain", "a", "--wait", "--timeout", "300s"))
                await until_states(running, {"a": "draining (asked)", "b": "ready"})
                assert await answered_by(running, "beside") == {"b"}
                assert not waiting.done()
            await asyncio.gather(*tasks)
        code, output = await waiting
        assert code == 0, output
        assert "drained after" in output
        assert all(one.complete and one.tokens == TOKENS for one in streams)
        workers = await workers_of(running, streams)
        assert "a" in workers
        record_property("figure", f"vllama drain --wait with {workers.count('a')} streams on the worker: 0 lost")
        code, output = await command(running, "undrain", "a")
        assert code == 0, output
        await until_states(running, {"a": "ready", "b": "ready"})
        rounds = itertools.count()

        async def serves_again() -> bool:
            return "a" in await answered_by(running, f"again-{next(rounds)}")

        await auntil(serves_again, 60, "the worker to get requests again", interval=1)


async def test_an_agent_that_gets_sigterm_loses_no_stream_of_its_attached_vllm(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    async with attached(tmp_path, smollm2_pair) as (running, (a, _)):
        async with streaming(f"{running.url}/api/chat", chat_body(TOKENS), STREAMS, "sigterm") as (streams, tasks):
            with frozen(smollm2_pair[0].engine()):  # before a stream is sent
                await until_in_progress(running, "a")
                a.signal(signal.SIGTERM)
                assert await a.exit_code(120) == 0
                await until_states(running, {"b": "ready"})
                assert await answered_by(running, "beside") == {"b"}
            await asyncio.gather(*tasks)
        assert all(one.complete and one.tokens == TOKENS for one in streams)
        workers = await workers_of(running, streams)
        assert "a" in workers
        assert smollm2_pair[0].alive, "the agent did not start it, so it does not stop it"
        record_property("figure", f"SIGTERM to the agent of an attached vLLM with {workers.count('a')} streams: 0 lost")


async def test_a_frozen_vllm_is_found_and_loses_no_stream(
    tmp_path: Path, smollm2_pair: Pair, record_property: Figures
) -> None:
    """SIGSTOP to all of its processes: its connections stay open, and nothing is answered.

    The limits on a silent answer are out of reach: only the worker's health tells.
    """
    limits = {"first_token_timeout": UNLIMITED, "stall_timeout": UNLIMITED}
    async with attached(tmp_path, smollm2_pair, first_env=SOON_FOUND, canary=CANARY, **limits) as (running, _):
        await until_answered(running, 2)  # by canaries: no client has asked
        await drain(running, "b", drain=True)
        async with streaming(f"{running.url}/api/chat", chat_body(LONG), 3, "frozen") as (streams, tasks):
            await auntil(lambda: all(one.has_content for one in streams), 60, "all streams to have begun")
            with stopped(smollm2_pair[0]):
                at = time.monotonic()
                await drain(running, "b", drain=False)
                await auntil(lambda: is_out(running, "a"), 120, "the frozen worker to be out")
                out = time.monotonic() - at
                assert await answered_by(running, "beside") == {"b"}
                await asyncio.gather(*tasks)
                done = time.monotonic() - at
                await until_answered(running, 1)
            await until_states(running, {"a": "ready", "b": "ready"})
            await until_answered(running, 2)
        assert all(one.complete and one.tokens == LONG for one in streams), [one.errors for one in streams]
        records = [await running.record(one.id) for one in streams]
        assert all(record["resumed"] and record["worker"] == "b" for record in records), records
        record_property(
            "figure",
            f"SIGSTOP of a vLLM with {len(streams)} streams: out after {out:.1f} s, all resumed, all done after "
            f"{done:.1f} s, 0 lost",
        )


@contextmanager
def stopped(server: VllmServer) -> Iterator[None]:
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


async def is_out(running: Fleet, worker: str) -> bool:
    return (await running.states())[worker] != "ready"


async def until_answered(running: Fleet, count: int) -> None:
    """Wait until `/readyz` says that so many available workers have lately produced a token."""

    async def answered() -> bool:
        page = (await running.http.get("/readyz")).json()
        return bool(next(iter(page["models"].values()))["answered"] == count)

    await auntil(answered, 120, f"{count} workers to have answered", interval=0.2)

"""`vllama worker` over a simulated worker and a real Valkey: start, crash, drain, and everything that can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.agents import agent, registered, wait_for, wait_gone
from tests.support.ports import free_ports
from tests.support.processes import process_group
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil, until
from tests.support.vllm.model_folder import write_model
from tests.support.vllm.simulated import COMMAND, IGNORE_SIGTERM, failing
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.record import WorkerState

SECRET = "0123456789abcdef" * 2
ENDLESS = 2000
"""Tokens of a stream that takes 40 s."""
FAULTS = "/simulated/faults"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "tiny", chat_template_dot_jinja="{{ messages }}"))


@pytest.fixture
def port() -> int:
    return free_ports()


@pytest.fixture
def args(model: str, port: int) -> list[str]:
    pace = ("--tokens-per-second", "50", "--ttft", "0")
    flags = ("--max-num-seqs", "4", "--max-model-len", "2048", "--engine-process", *pace)
    return ["--model", model, "--name", "w", "--port", str(port), "--", *flags]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    """The embedded registry of tmp_path, for routers and agents of that state directory."""
    async with running_valkey(tmp_path), connect(embedded.address(tmp_path)) as redis:
        yield Registry(redis, "default")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as made:
        yield made


async def stream(client: httpx.AsyncClient, url: str, tokens: int) -> str:
    body = {"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return (await client.post(url + "/v1/completions", json=body)).text


async def test_a_worker_registers_when_it_is_ready(
    registry: Registry, args: list[str], port: int, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        record, (info,) = found.record, found.record.models
        assert (record.url, record.slots, record.engine) == (f"http://127.0.0.1:{port}", 4, "vllm")
        assert record.engine_version == "0.32.0+simulated"
        assert (info.name, info.parameter_count, info.context_length) == ("tiny", 2112, 2048)
        assert (info.has_template, info.template, len(info.digest)) == (True, "{{ messages }}", 64)
        assert len(process_group(record.pid)) == 2
        await auntil(lambda: worker.says("ready after"))
        assert [line.split("  ")[1].split(" after")[0] for line in worker.lines] == [
            f"loading tiny on port {port}",
            "ready",
        ]


async def test_running_requests_and_token_rate_are_reported(
    registry: Registry, args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path):
        found = await wait_for(registry, "w", WorkerState.READY)
        task = asyncio.create_task(stream(client, found.record.url, ENDLESS))

        async def busy() -> bool:
            now = await registered(registry, "w")
            return now is not None and now.load.running == 1 and now.load.tokens_per_second > 10

        await auntil(busy, 10, "the running request to be reported")
        task.cancel()
        await asyncio.wait([task])


async def test_a_killed_vllm_is_restarted(registry: Registry, args: list[str], tmp_path: Path) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        before = await wait_for(registry, "w", WorkerState.READY)
        os.killpg(before.record.pid, signal.SIGKILL)
        after = await wait_for(registry, "w", WorkerState.READY, restarts=1)
        assert after.record.pid != before.record.pid
        assert after.record.generation == before.record.generation
        await auntil(lambda: worker.says("vLLM died (SIGKILL): restarting in 1 s"))


async def test_the_engine_of_a_killed_server_is_killed_too(registry: Registry, args: list[str], tmp_path: Path) -> None:
    async with agent(*args, state_dir=tmp_path):
        before = await wait_for(registry, "w", WorkerState.READY)
        engine = next(p for p in process_group(before.record.pid) if p.pid != before.record.pid)
        os.kill(before.record.pid, signal.SIGKILL)
        await auntil(lambda: not engine.is_running(), 5, "the engine to go")
        await wait_for(registry, "w", WorkerState.READY, restarts=1)


async def test_a_dead_engine_is_noticed_before_vllm_ends(
    registry: Registry, args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        await client.post(found.record.url + FAULTS, json={"kind": "dead", "exit_after": 8})
        await wait_for(registry, "w", WorkerState.READY, restarts=1)
        assert worker.says("its engine has died")


async def test_a_frozen_vllm_gets_no_more_requests_until_it_thaws(
    registry: Registry, args: list[str], tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path):
        found = await wait_for(registry, "w", WorkerState.READY)
        os.kill(found.record.pid, signal.SIGSTOP)
        down = await wait_for(registry, "w", WorkerState.RESTARTING, 8)
        assert down.load.note == "vLLM does not answer"
        os.kill(found.record.pid, signal.SIGCONT)
        back = await wait_for(registry, "w", WorkerState.READY, 4)
        assert (back.record.pid, back.load.restarts) == (found.record.pid, 0)


async def test_sigterm_lets_running_requests_finish(
    registry: Registry, args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        await client.post(found.record.url + FAULTS, json={"kind": "slow", "factor": 20})
        streams = [asyncio.create_task(stream(client, found.record.url, 150)) for _ in range(3)]
        await wait_running(registry, 3)
        worker.signal(signal.SIGTERM)
        await wait_for(registry, "w", WorkerState.DRAINING, 10)
        await client.post(found.record.url + FAULTS, json=[])
        texts = await asyncio.gather(*streams)
        assert all(text.count("data: {") == 150 and text.endswith("[DONE]\n\n") for text in texts)
        await wait_gone(registry, "w")
        assert await worker.exit_code() == 0
        assert process_group(found.record.pid) == []


async def test_a_second_signal_stops_the_agent_at_once(
    registry: Registry, args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        endless = asyncio.create_task(stream(client, found.record.url, ENDLESS))
        await wait_running(registry, 1)
        worker.signal(signal.SIGINT)
        await wait_for(registry, "w", WorkerState.DRAINING, 10)
        worker.signal(signal.SIGINT)
        assert await worker.exit_code(20) == 0
        assert process_group(found.record.pid) == []
        assert await registered(registry, "w") is None
        with pytest.raises(httpx.TransportError):
            await endless


async def test_requests_that_outlast_the_grace_are_cut(
    registry: Registry, args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, *IGNORE_SIGTERM, state_dir=tmp_path, env={"VLLAMA_GRACE": "1"}) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        endless = asyncio.create_task(stream(client, found.record.url, ENDLESS))
        await wait_running(registry, 1)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code(20) == 0
        assert process_group(found.record.pid) == []
        with pytest.raises(httpx.TransportError):
            await endless


async def test_a_loading_worker_is_stopped_and_deregistered(
    registry: Registry, args: list[str], tmp_path: Path
) -> None:
    async with agent(*args, "--startup", "60", state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.STARTING)
        assert found.record.models == ()
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code(20) == 0
        assert await registered(registry, "w") is None


async def test_the_vllm_of_a_killed_agent_is_killed_too(registry: Registry, args: list[str], tmp_path: Path) -> None:
    async with agent(*args, *IGNORE_SIGTERM, state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        worker.signal(signal.SIGKILL)
        await auntil(lambda: not process_group(found.record.pid), 10, "vLLM to go")


async def test_an_agent_that_was_killed_can_be_started_again_at_once(
    registry: Registry, args: list[str], tmp_path: Path
) -> None:
    async with agent(*args, *IGNORE_SIGTERM, state_dir=tmp_path) as worker:
        killed = await wait_for(registry, "w", WorkerState.READY)
        worker.signal(signal.SIGKILL)
        await worker.exit_code()
    async with agent(*args, state_dir=tmp_path):

        async def replaced() -> bool:
            found = await registered(registry, "w")
            return (
                found is not None
                and found.load.state is WorkerState.READY
                and found.record.generation > killed.record.generation
            )

        await auntil(replaced, 20, "the new agent to be ready on the old port")
        assert process_group(killed.record.pid) == []


async def test_an_agent_started_before_the_registry_registers_later(args: list[str], tmp_path: Path) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        await auntil(lambda: worker.says("ready after"), 15)
        assert sum("waiting for vllama serve" in line for line in worker.lines) == 1
        async with running_valkey(tmp_path), connect(embedded.address(tmp_path)) as redis:
            await wait_for(Registry(redis, "default"), "w", WorkerState.READY, 3)


async def test_a_worker_serves_without_registry_and_registers_in_an_empty_one(
    args: list[str], client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path) as worker:
        async with running_valkey(tmp_path), connect(embedded.address(tmp_path)) as redis:
            found = await wait_for(Registry(redis, "default"), "w", WorkerState.READY)
        await auntil(lambda: worker.says("no answer from the registry"), 5)
        assert (await stream(client, found.record.url, 3)).endswith("[DONE]\n\n")
        async with running_valkey(tmp_path), connect(embedded.address(tmp_path)) as redis:
            again = await wait_for(Registry(redis, "default"), "w", WorkerState.READY, 3)
        assert again.record == found.record
        assert worker.says("the registry can be used again")


async def test_a_vllm_that_never_starts_is_one_line_and_exit_code_1(
    args: list[str], registry: Registry, tmp_path: Path
) -> None:
    program = failing("ValueError: no kernel image for this GPU")
    async with agent(*args, state_dir=tmp_path, program=program) as worker:
        assert await worker.exit_code() == 1
        (line,) = [line for line in worker.lines if line.startswith("vllama:")]
        assert "did not start: exit code 1: ValueError: no kernel image for this GPU" in line
        assert str(tmp_path / "logs" / "w.log") in line
        assert not any("Traceback" in line for line in worker.lines)
        assert await registered(registry, "w") is None


async def test_a_failed_restart_is_retried(registry: Registry, args: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    program = failing("ValueError: the disk is full", if_exists=broken)
    async with agent(*args, state_dir=tmp_path, program=program) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        broken.touch()
        os.killpg(found.record.pid, signal.SIGKILL)
        failed = "vLLM died (exit code 1: ValueError: the disk is full): restarting in "
        await auntil(lambda: worker.says(f"{failed}2 s"), 15, "a restart to fail")
        down = await wait_for(registry, "w", WorkerState.RESTARTING)
        await auntil(lambda: noted(registry, failed), 15, "the registry to say why")
        assert down.record.models == found.record.models
        broken.unlink()
        await wait_for(registry, "w", WorkerState.READY)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--model", "/nowhere/model"], "there is no model at /nowhere/model"),
        (["--model", "org/tiny", "--advertise", "0.0.0.0"], "routers cannot use"),
        (["--model", "org/tiny", "--name", "two words"], "is not a valid worker id"),
        (["--attach", "not a url"], "has blanks"),
        ([], "either --model or --attach"),
    ],
)
async def test_impossible_options_are_one_line(extra: list[str], says: str, tmp_path: Path) -> None:
    async with agent(*extra, state_dir=tmp_path) as worker:
        assert await worker.exit_code() == 1
        (line,) = worker.lines
        assert says in line


async def test_a_port_in_use_is_one_line(args: list[str], port: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", port)):
        async with agent(*args, state_dir=tmp_path) as worker:
            assert await worker.exit_code() == 1
            (line,) = worker.lines
            assert f"port {port} on 127.0.0.1 is in use" in line


async def test_a_missing_vllm_program_is_reported(args: list[str], tmp_path: Path) -> None:
    async with agent(*args, state_dir=tmp_path, program=("/nowhere/vllm",)) as worker:
        assert await worker.exit_code() == 1
        assert worker.says("cannot run /nowhere/vllm: the program does not exist")


async def test_a_newer_agent_takes_over_and_the_older_one_stops(model: str, tmp_path: Path) -> None:
    redis_port = free_ports()
    env = {"VLLAMA_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "VLLAMA_FLEET_SECRET": SECRET}
    both = ["--model", model, "--name", "w", "--port"]
    async with running_valkey(tmp_path, port=redis_port), connect(env["VLLAMA_REDIS_URL"]) as redis:
        registry = Registry(redis, "default")
        async with agent(*both, str(free_ports()), state_dir=tmp_path / "old", env=env) as old:
            first = await wait_for(registry, "w", WorkerState.READY, secret=SECRET.encode())
            async with agent(*both, str(free_ports()), state_dir=tmp_path / "new", env=env):
                assert await old.exit_code() == 1
                assert old.says("a newer agent has taken this worker's place")
                assert process_group(first.record.pid) == []
                second = await wait_for(registry, "w", WorkerState.READY, secret=SECRET.encode())
                assert second.record.generation > first.record.generation
                assert second.record.url != first.record.url


async def test_an_id_can_be_used_once_on_a_machine(
    registry: Registry, args: list[str], model: str, tmp_path: Path
) -> None:
    async with agent(*args, state_dir=tmp_path):
        await wait_for(registry, "w", WorkerState.READY)
        async with agent("--model", model, "--name", "w", state_dir=tmp_path) as second:
            assert await second.exit_code() == 1
            assert second.says("worker w is already running here")
        await wait_for(registry, "w", WorkerState.READY)


@pytest.fixture
def foreign(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A vLLM that somebody else runs."""
    command = [*COMMAND, "serve", "theirs", "--port", str(port)]
    with subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  it takes no locks
    ) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


async def test_an_attached_vllm_is_announced_and_never_stopped(
    registry: Registry, foreign: subprocess.Popen[bytes], port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{port}"
    async with agent("--attach", url, "--name", "w", state_dir=tmp_path) as worker:
        found = await wait_for(registry, "w", WorkerState.READY)
        assert (found.record.url, found.record.slots, found.record.pid) == (url, 0, 0)
        assert [info.name for info in found.record.models] == ["theirs"]
        foreign.send_signal(signal.SIGSTOP)
        down = await wait_for(registry, "w", WorkerState.STARTING, 8)
        assert down.load.note == f"{url} does not answer"
        foreign.send_signal(signal.SIGCONT)
        await wait_for(registry, "w", WorkerState.READY, 8)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code(20) == 0
        assert await registered(registry, "w") is None
    assert foreign.poll() is None
    until(lambda: httpx.get(url + "/health", trust_env=False, verify=False, timeout=60).status_code == 200)


async def test_an_attached_vllm_that_does_not_run_yet_is_noted(registry: Registry, port: int, tmp_path: Path) -> None:
    async with agent("--attach", f"http://127.0.0.1:{port}", "--name", "w", state_dir=tmp_path) as worker:
        await auntil(lambda: worker.says("refuses connections"), 10)
        await auntil(lambda: noted(registry, "refuses connections"), 5)


async def test_a_supervisor_gets_states_and_models_through_the_pipe(
    registry: Registry, args: list[str], tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "vllama_pool.router.cli.main", "worker", *args]
    settings = {"STATE_DIR": str(tmp_path), "VLLM": shlex.join(COMMAND), "STATUS_FD": str(writing)}
    env = {**os.environ, **{f"VLLAMA_{name}": value for name, value in settings.items()}}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, pass_fds=(writing,), stderr=asyncio.subprocess.PIPE
    )
    os.close(writing)
    await wait_for(registry, "w", WorkerState.READY)
    process.terminate()
    _, written = await process.communicate()
    with os.fdopen(reading) as pipe:
        states = [json.loads(line) for line in pipe]
    assert [status["state"] for status in states] == ["starting", "ready"]
    assert states[1]["models"] == ["tiny"]
    assert written == b""


async def noted(registry: Registry, words: str) -> bool:
    found = await registered(registry, "w")
    return found is not None and words in found.load.note


async def wait_running(registry: Registry, count: int) -> None:
    async def running() -> bool:
        found = await registered(registry, "w")
        return found is not None and found.load.running == count

    await auntil(running, 10, f"{count} running requests")

"""ManagedServer with a scripted process, HTTP server and clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.until import auntil
from vllama_pool.workers.agent.command_line import Address
from vllama_pool.workers.agent.managed_server import GaveUp, ManagedServer, ServerInfo, ServerSpec
from vllama_pool.workers.agent.monitor import Monitor
from vllama_pool.workers.process.server_process import ExitStatus, ProcessEnded, ProcessState
from vllama_pool.workers.registry.record import EngineExit, LoadReport, ModelInfo, WorkerState

STOP_GRACE = 10.0
REFUSED = 0
"""Health of a server that refuses connections; other values are HTTP statuses."""
MODELS = (ModelInfo(name="tiny"),)


class EndOfScript(Exception):
    """Ends `serve` once the last process has used up its script."""


@dataclass
class FakeProcess:
    """Each `died_within` uses up one step of the script: a health to answer from then on, or an exit."""

    scene: Scene
    script: list[int | ExitStatus] = field(default_factory=list)
    exit: ExitStatus | None = None
    """An exit before the server is ready."""
    hangs: bool = False
    """Never becomes ready."""
    pid: int = 41
    state: ProcessState = ProcessState.STARTING
    stops: list[float] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.exit is None

    async def start(self) -> None:
        pass

    async def wait_ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.exit is not None:
            raise ProcessEnded(self.exit)
        self.scene.health = 200
        assert await is_ready()
        self.state = ProcessState.READY

    async def wait(self) -> ExitStatus:
        while self.exit is None:
            await asyncio.Event().wait()
        return self.exit

    async def died_within(self, seconds: float) -> ExitStatus | None:
        self.scene.now += seconds
        if not self.script:
            raise EndOfScript
        step = self.script.pop(0)
        if isinstance(step, ExitStatus):
            self.exit = step
            return step
        self.scene.health = step
        return None

    async def stop(self, grace: float) -> ExitStatus:
        self.stops.append(grace)
        self.exit = self.exit or ExitStatus(0)
        return self.exit


@dataclass
class Scene:
    """The server's surroundings, and its record of events."""

    log: Path
    log_text: str = ""
    processes: list[FakeProcess] = field(default_factory=list)
    now: float = 0.0
    health: int = REFUSED
    running: int = 0
    served: str = "tiny"
    free: bool = True
    started: int = 0
    pauses: list[float] = field(default_factory=list)
    announced: list[ServerInfo] = field(default_factory=list)
    changes: list[tuple[WorkerState, str]] = field(default_factory=list)
    loads: list[LoadReport] = field(default_factory=list)

    def server(self, **spec: float) -> ManagedServer:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._respond))
        address = Address("127.0.0.1", "127.0.0.1", 8100)
        return ManagedServer(
            ServerSpec(("vllm",), {}, address, self.log, ("tiny",), describe=lambda observed: MODELS, **spec),
            client,
            Monitor(client, self.loads.append),
            self,
            stop_grace=STOP_GRACE,
            clock=lambda: self.now,
            sleep=self._sleep,
            new_process=self._new_process,
            port_is_free=lambda host, port: self.free,
        )

    def process(self, *script: int | ExitStatus, exit: ExitStatus | None = None, hangs: bool = False) -> FakeProcess:
        self.processes.append(FakeProcess(self, list(script), exit, hangs))
        return self.processes[-1]

    def ready(self, server: ServerInfo, after: float) -> None:
        self.announced.append(server)

    def described(self, server: ServerInfo) -> None:
        raise AssertionError("all is known of a server that the agent starts")

    def changed(self, state: WorkerState, note: str) -> None:
        self.changes.append((state, note))

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if self.health == REFUSED:
            raise httpx.ConnectError("refused", request=request)
        match request.url.path:
            case "/health":
                return httpx.Response(self.health)
            case "/v1/models":
                return httpx.Response(200, json={"object": "list", "data": [{"id": self.served}]})
            case "/version":
                return httpx.Response(200, json={"version": "0.32.0"})
            case "/metrics":
                return httpx.Response(200, text=f"vllm:num_requests_running {self.running}\n")
        return httpx.Response(200 if request.method == "POST" else 405, json={})

    def _new_process(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> FakeProcess:
        log.write_text(self.log_text)
        self.started += 1
        return self.processes[self.started - 1]

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "w.log")


async def serve_to_the_end(server: ManagedServer) -> None:
    with pytest.raises(EndOfScript):
        await server.serve()


async def test_a_ready_server_is_announced_with_models_version_and_pid(scene: Scene) -> None:
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert scene.announced == [ServerInfo(MODELS, "0.32.0", 41)]
    assert scene.loads[-1].state is WorkerState.READY


async def test_a_failed_first_start_gives_up_with_the_reason_from_the_log(scene: Scene) -> None:
    scene.process(exit=ExitStatus(1))
    scene.log_text = "ValueError: no kernel image for this GPU\n"
    with pytest.raises(GaveUp, match=r"exit code 1: ValueError: no kernel image for this GPU; its log is .*w\.log"):
        await scene.server().serve()
    assert (scene.pauses, scene.announced) == ([], [])


async def test_a_port_in_use_gives_up_before_a_process_is_started(scene: Scene) -> None:
    scene.free = False
    with pytest.raises(GaveUp, match=r"port 8100 on 127\.0\.0\.1 is in use"):
        await scene.server().serve()
    assert scene.started == 0


async def test_another_server_on_the_port_gives_up_and_names_its_model(scene: Scene) -> None:
    scene.process(200)
    scene.served = "other"
    with pytest.raises(GaveUp, match="port 8100 is answered by another server, which serves other"):
        await scene.server().serve()
    assert scene.announced == []


async def test_a_server_that_is_not_ready_within_the_load_timeout_gives_up(scene: Scene) -> None:
    scene.process(hangs=True)
    with pytest.raises(GaveUp, match="not ready within 0 s"):
        await scene.server(load_timeout=0.0).serve()


async def test_a_crashed_server_is_restarted_with_doubling_pauses(scene: Scene) -> None:
    crashed = scene.process(200, ExitStatus(-9))
    scene.process(exit=ExitStatus(1))
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert scene.pauses == [1, 2]
    assert crashed.stops == [0]
    assert [note.partition(";")[0] for _, note in scene.changes] == [
        "vLLM died (SIGKILL): restarting in 1 s",
        "vLLM died (exit code 1): restarting in 2 s",
    ]
    assert len(scene.announced) == 2
    assert (scene.loads[-1].state, scene.loads[-1].restarts) == (WorkerState.READY, 2)


async def test_each_end_of_a_ready_server_is_reported_and_numbered(scene: Scene) -> None:
    scene.process(200, ExitStatus(-9))
    scene.process(200, ExitStatus(-6))
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert [load.exit for load in scene.loads if load.state is WorkerState.RESTARTING] == [
        EngineExit(number=1, cause="SIGKILL"),
        EngineExit(number=2, crashed=True, cause="SIGABRT"),
    ]
    assert scene.loads[-1].exit == EngineExit(number=2, crashed=True, cause="SIGABRT")


async def test_a_dead_engine_is_one_crash_before_and_after_its_server_exits(scene: Scene) -> None:
    scene.process(200, 503, ExitStatus(1))
    scene.process(200)
    await serve_to_the_end(scene.server())
    exits = [load.exit for load in scene.loads if load.state is WorkerState.RESTARTING]
    assert exits == [EngineExit(number=1, crashed=True, cause="engine died")] * 2


async def test_a_server_that_its_agent_stops_has_not_crashed(scene: Scene) -> None:
    scene.process(200, *[REFUSED] * 240)
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert scene.loads[-1].exit == EngineExit(number=1, cause="stopped: no answer")


async def test_three_failed_polls_take_a_server_out_until_it_answers_again(scene: Scene) -> None:
    scene.process(200, REFUSED, REFUSED, REFUSED, REFUSED, 200)
    await serve_to_the_end(scene.server())
    assert scene.changes == [
        (WorkerState.RESTARTING, "vLLM does not answer"),
        (WorkerState.READY, "vLLM answers again"),
    ]
    assert (scene.started, scene.pauses) == (1, [])


async def test_two_failed_polls_change_nothing(scene: Scene) -> None:
    scene.process(200, REFUSED, REFUSED, 200)
    await serve_to_the_end(scene.server())
    assert scene.changes == []


async def test_a_server_without_an_answer_for_two_minutes_is_killed_and_restarted(scene: Scene) -> None:
    hung = scene.process(200, *[REFUSED] * 240)
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert hung.stops[0] == 0
    assert scene.changes[-1][1].startswith("vLLM died (no answer for 120 s): restarting in 1 s")


async def test_a_dead_engine_is_reported_at_once_and_its_reason_read_from_the_log(scene: Scene) -> None:
    scene.log_text = "OutOfMemoryError: CUDA out of memory.\n"
    dead = scene.process(200, 503, ExitStatus(1))
    scene.process(200)
    await serve_to_the_end(scene.server())
    assert dead.exit == ExitStatus(1), "vLLM gets time to exit by itself"
    assert [note.partition("; its log")[0] for _, note in scene.changes] == [
        "vLLM says that its engine has died",
        "vLLM died (its engine died: OutOfMemoryError: CUDA out of memory.): restarting in 1 s",
    ]


async def test_a_server_that_is_not_ready_is_stopped_without_the_grace(scene: Scene) -> None:
    loading = scene.process(hangs=True)
    server = scene.server()
    serving = asyncio.create_task(server.serve())
    await auntil(lambda: scene.started)
    await server.drain(60)
    await server.stop(60)
    serving.cancel()
    await asyncio.wait([serving])
    assert loading.stops == [STOP_GRACE]


async def test_an_idle_server_is_drained_after_a_second_and_stopped_without_the_grace(scene: Scene) -> None:
    process, server = scene.process(200), scene.server()
    await serve_to_the_end(server)
    process.script, before = [200] * 20, scene.now
    await server.drain(before + 60)
    await server.stop(50)
    assert scene.now - before == pytest.approx(1, abs=0.15)
    assert scene.loads[-1].state is WorkerState.DRAINING
    assert process.stops == [STOP_GRACE]


async def test_a_busy_server_is_drained_until_the_deadline_and_keeps_the_rest_of_the_grace(scene: Scene) -> None:
    process, server = scene.process(200), scene.server()
    await serve_to_the_end(server)
    process.script, before, scene.running = [200] * 60, scene.now, 1
    await server.drain(before + 5)
    await server.stop(0.5)
    assert scene.now - before == pytest.approx(5, abs=0.15)
    assert process.stops == [STOP_GRACE + 0.5]


async def test_draining_ends_when_the_server_does_not_answer(scene: Scene) -> None:
    process, server = scene.process(200), scene.server()
    await serve_to_the_end(server)
    process.script, before = [REFUSED] * 20, scene.now
    await server.drain(before + 60)
    assert scene.now - before < 1

"""The worker agent: one process beside one vLLM.

    start -> ready -> warm-up -> announce -> beat -> drain -> leave -> stop

The server's own life is hosting.py's (or attached.py's), the registry's side is announcer.py's. Here they are
put together, and signals are turned into a drain or into an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

from config.settings import RegistrySettings, WorkerSettings
from workers import claims
from workers.announcer import Announcer, FencedOff, Store
from workers.attached import Attached, is_loopback
from workers.embedded import EmbeddedFailed, address
from workers.flags import Flags
from workers.hosting import GaveUp, Hosted, Launch, Ready
from workers.keys import check_worker_id
from workers.launch import (
    Address,
    AgentSpec,
    CannotStart,
    check_spec,
    command_line,
    environment,
    find_program,
    is_cpu_build,
    slots_of,
    worker_id,
)
from workers.metadata import slim
from workers.monitor import LOOK_TIMEOUT, Monitor
from workers.probe import http_client
from workers.record import Load, WorkerRecord, WorkerState
from workers.registry import InvalidRegistryAddress, Registry, RegistryUnavailable, connect
from workers.status import Status, StatusPipe

__all__ = ["Agent", "AgentSpec", "CannotStart", "run_agent"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEAVE_TIMEOUT = 1.5
"""Seconds for the last word to the registry."""
MAX_MODELS = 700 << 10
"""Bytes of JSON that a record's models may take; routers refuse records beyond a megabyte."""

Say = Callable[[str], None]


class Server(Protocol):
    """A vLLM, ours or not."""

    async def serve(self) -> None: ...
    async def drain(self, deadline: float) -> None: ...
    async def stop(self, grace: float = 0.0) -> None: ...
    async def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is, in every record."""

    id: str
    generation: int
    slots: int
    spec: AgentSpec
    url: str


class News:
    """Passes on what becomes of the server: to the registry, to the supervisor, to the terminal."""

    def __init__(self, me: Identity, announcer: Announcer, monitor: Callable[[], Load], status: StatusPipe, say: Say):
        self._me = me
        self._announcer = announcer
        self._load = monitor
        self._status = status
        self._say = say

    def starting(self, what: str) -> None:
        self._say(what)
        self._announcer.announce(self._record(Ready(self._me.url, (), "")), self._load())
        self._status.tell(Status(WorkerState.STARTING))

    def ready(self, server: Ready, after: float) -> None:
        self._announcer.announce(self._record(server), self._load())
        self._status.tell(Status(WorkerState.READY, models=tuple(n for m in server.models for n in m.names)))
        self._say(f"ready after {after:.0f} s")

    def changed(self, state: WorkerState, note: str) -> None:
        self._status.tell(Status(state, note))
        self._say(note)

    def _record(self, server: Ready) -> WorkerRecord:
        me = self._me
        return WorkerRecord(
            id=me.id,
            generation=me.generation,
            url=server.url,
            models=slim(server.models, MAX_MODELS),
            slots=me.slots,
            speed=me.spec.speed,
            engine=me.spec.engine,
            engine_version=server.version,
            tags=me.spec.tags,
            started=time.time(),
            host=socket.gethostname(),
            pid=server.pid,
        )


class Agent:
    """Runs a server and its announcements until told to stop."""

    def __init__(self, server: Server, announcer: Announcer, *, grace: float, say: Say) -> None:
        self._server = server
        self._announcer = announcer
        self._grace = grace
        self._say = say
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        """First call: drain and stop. Second: stop now."""
        (self._hurried if self._stopping.is_set() else self._stopping).set()

    async def run(self) -> None:
        """Raises GaveUp or FencedOff; by then nothing of the server is left."""
        serving = asyncio.create_task(self._server.serve())
        beating = asyncio.create_task(self._announcer.run())
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = (serving, beating, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(serving)
            grace = self._grace if not serving.done() or serving.cancelled() else 0.0
            await self._unless_hurried(self._wind_down(beating, grace))
        finally:
            await self._server.kill()
            await _cancel(*tasks)
        for task in (serving, beating):
            if not task.cancelled() and (error := task.exception()) is not None and not self._stopping.is_set():
                raise error

    async def _wind_down(self, beating: asyncio.Task[None], grace: float) -> None:
        """Let running requests finish, with beats going on, then leave, then stop the server."""
        deadline = time.monotonic() + grace
        if self._stopping.is_set():
            self._say(f"draining: running requests get {grace:.0f} s")
        await self._server.drain(deadline)
        await _cancel(beating)
        with contextlib.suppress(RegistryUnavailable, TimeoutError):
            await asyncio.wait_for(self._announcer.leave(), LEAVE_TIMEOUT)
        await self._server.stop(max(0.0, deadline - time.monotonic()))

    async def _unless_hurried(self, work: Coroutine[object, object, None]) -> None:
        task, hurried = asyncio.create_task(work), asyncio.create_task(self._hurried.wait())
        try:
            await asyncio.wait((task, hurried), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            else:
                self._say("stopping now")
                await _cancel(task)
                with contextlib.suppress(RegistryUnavailable, TimeoutError):
                    await asyncio.wait_for(self._announcer.leave(), LEAVE_TIMEOUT / 3)
        finally:
            await _cancel(task, hurried)


async def run_agent(
    spec: AgentSpec,
    settings: WorkerSettings,
    *,
    env: Mapping[str, str] = os.environ,
    status: StatusPipe | None = None,
    write: Say | None = None,
) -> int:
    """Run one worker until SIGTERM or SIGINT; the exit code. Call it in the main thread.

    `write` gets one line for each change of state, without line end; the default is stderr. Under a
    supervisor, which has the status pipe, only errors are written.
    """
    pipe = status or StatusPipe.from_environment(env)
    write = write or _to_stderr
    try:
        check_spec(spec)
        await _run(replace(spec, model=_expanded(spec.model)), settings, env, pipe, write)
    except (CannotStart, GaveUp, FencedOff, EmbeddedFailed, InvalidRegistryAddress) as error:
        write(f"vllama: {error}")  # not through the pipe: a supervisor would say it twice
        return 1
    return 0


async def _run(spec: AgentSpec, settings: WorkerSettings, env: Mapping[str, str], pipe: StatusPipe, write: Say) -> None:
    state_dir = settings.registry.state_dir
    check_advertise(settings.advertise, settings.registry)
    flags = Flags(spec.flags)
    port, port_claim = _port(spec, settings, flags)
    name = worker_id(spec, socket.gethostname(), port)
    try:
        check_worker_id(name)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    id_claim = claims.claim_id(state_dir, name)

    def say(text: str) -> None:
        if not pipe.connected:
            write(f"worker {name}  {text}")

    key = (
        settings.worker_key.get_secret_value()
        if settings.worker_key
        else flags.value("--api-key") or env.get("VLLM_API_KEY")
    )
    program = () if spec.attach else find_program(spec.engine, env)
    cpu = bool(program) and is_cpu_build(program)
    scheme = "https" if flags.has("--ssl-keyfile") else "http"
    where = Address(settings.advertise, flags.value("--host") or settings.advertise, port, scheme)
    url = _attached_url(spec.attach, settings.advertise) if spec.attach else where.url
    generation = claims.next_generation(state_dir, name)
    me = Identity(name, generation, slots_of(flags, cpu=cpu, engine=spec.engine), spec, url)
    redis = connect(settings.registry.redis_url or address(state_dir))
    secret = settings.registry.fleet_secret
    registry: Store = Registry(
        redis, settings.registry.fleet, secret=secret.get_secret_value().encode() if secret else None
    )
    absent = "" if settings.registry.redis_url else f"no registry in {state_dir} yet: waiting for vllama serve"
    announcer = Announcer(registry, say, rng=random.Random(), absent=absent)
    async with http_client(LOOK_TIMEOUT, verify=bool(spec.attach)) as client:
        monitor = Monitor(client, announcer.report, key)
        news = News(me, announcer, lambda: monitor.load, pipe, say)
        server: Server
        if spec.attach:
            server = Attached(spec.attach, url, client, monitor, news, flags=flags, env=env, key=key)
            news.starting(f"attaching to {spec.attach}")
        else:
            launch = Launch(
                tuple(command_line(program, spec, where, settings.grace)),
                environment(env, cpu=cpu, key=key),
                where,
                claims.log_file(state_dir, name),
                spec.model,
                flags,
                settings.load_timeout,
            )
            server = Hosted(launch, client, monitor, news, key=key)
            news.starting(f"loading {' '.join(flags.values('--served-model-name')) or spec.model} on port {port}")
        agent = Agent(server, announcer, grace=settings.grace, say=say)
        loop = asyncio.get_running_loop()
        numbers = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup ignores SIGHUP
        for number in numbers:
            loop.add_signal_handler(number, agent.stop)
        try:
            await agent.run()
            say("stopped")
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
            await redis.aclose()
            id_claim.release()
            if port_claim is not None:
                port_claim.release()


def check_advertise(host: str, registry: RegistrySettings) -> None:
    """Refuse what routers elsewhere could not reach, or would not believe. Raises CannotStart."""
    if host in ("", "0.0.0.0", "::", "*"):
        raise CannotStart(f"'{host}' is no address that routers could use; give --advertise this machine's own")
    if registry.redis_url is None or registry.embedded:
        return
    if registry.fleet_secret is None:
        raise CannotStart("records in a Redis must be signed; set VLLAMA_FLEET_SECRET, the same for all of the fleet")
    redis_host = urlsplit(registry.redis_url).hostname or "localhost"
    if is_loopback(host) and not is_loopback(redis_host):
        raise CannotStart(
            f"the registry is on {redis_host}, so routers may be elsewhere and could not reach {host}; "
            "give --advertise an address of this machine that they can reach"
        )


def _port(spec: AgentSpec, settings: WorkerSettings, flags: Flags) -> tuple[int, claims.Claim | None]:
    if spec.attach:
        parts = urlsplit(spec.attach)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CannotStart(f"{spec.attach} is no URL; give one such as http://127.0.0.1:8000")
        return parts.port or (443 if parts.scheme == "https" else 80), None
    asked = flags.number("--port") or spec.port
    exact = asked is not None or "port" in settings.model_fields_set
    host = flags.value("--host") or settings.advertise
    return claims.claim_port(settings.registry.state_dir, host, asked or settings.port, exact=exact)


def _attached_url(url: str, advertise: str) -> str:
    """The attached server's URL as routers see it: on this machine, that is at the advertised address."""
    parts = urlsplit(url)
    if is_loopback(advertise) or not is_loopback(parts.hostname or ""):
        return url.rstrip("/")
    host = f"[{advertise}]" if ":" in advertise else advertise
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")


async def _cancel(*tasks: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Cancel and wait; what the tasks raise is for others to look at."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _expanded(model: str) -> str:
    return os.path.expanduser(model)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

"""Supervise the registry, router processes and worker agents of `vllama serve`.

One loop handles queued signals, exits and status reports.

- A child that exits before it was ever ready has a permanent fault (a wrong flag, a broken file): everything is
  stopped. A child that was ready, or was killed, is restarted with back-off.
- The routers start while the registry does, and the worker agents once it answers.
- When all children are ready, the routers are asked until each of them routes to every worker. Then, or after a while
  with a line about what is missing, readiness is announced.
- SIGHUP: the routers read the routing file. If the terminal is gone, it is a stop signal.
- First stop signal: routers stop accepting and finish their streams, then the agents drain, all within `grace`
  seconds. Second: everything is stopped at once.
- If this process is killed, the kernel signals its children (see `workers/process/lifeline.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vllama_pool.router.supervisor.child import Child, ChildExited, ChildKind, ChildSpec, StatusChanged
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.readiness import Gap, ReadyWorkers
from vllama_pool.router.supervisor.registry_server import RegistryFailed, RegistryServer
from vllama_pool.router.telemetry.routing_state import RoutedWorker
from vllama_pool.workers.process.backoff import Backoff, wait_base, wait_exponential
from vllama_pool.workers.process.lifeline import signal_name
from vllama_pool.workers.process.status import ChildStatus

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
CLOSING_TIME = 0.5
"""Seconds before the end of the drain delay at which the listening socket is closed: the routers must still accept what
is queued."""
LOADING_LINE_INTERVAL = 15.0
"""Seconds between console lines about a worker that is still loading."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    sig: signal.Signals


@dataclass(frozen=True, slots=True)
class HangUp:
    """SIGHUP."""


@dataclass(frozen=True, slots=True)
class RestartDue:
    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class RoutersChecked:
    """The routers have been asked whether they use the workers."""

    gaps: Sequence[Gap]


@dataclass(frozen=True, slots=True)
class RegistryChecked:
    """The registry answers, or will not."""

    problem: str = ""


Event = StatusChanged | ChildExited | StopRequested | HangUp | RestartDue | RoutersChecked | RegistryChecked

REPLACEABLE = 5.0
"""Seconds of life after which a child that exits with 0 is replaced at once: somebody restarts it."""
SETTLED = 60.0
"""Seconds of life after which a child's failure counts as the first one."""


@dataclass(slots=True)
class ChildHistory:
    """State of a child that outlives restarts. Times are monotonic seconds."""

    backoff: Backoff
    started: float = 0.0
    loading: float = 0.0
    """Start of loading: its own start, or when a worker's vLLM went down."""
    was_ready: bool = False
    printed: float = 0.0
    """Last line about its loading."""


async def no_gaps(workers: ReadyWorkers) -> Sequence[Gap]:
    return ()


async def nothing_to_close() -> None:
    pass


@dataclass(slots=True)
class Supervisor:
    """Runs `specs` until a stop signal, or until a child cannot start."""

    specs: Sequence[ChildSpec]
    registry: RegistryServer
    console: Console
    grace: float
    """Seconds for running requests after the first signal."""
    on_serving: Callable[[], None] = lambda: None
    """Called once, when all routers are ready."""
    on_ready: Callable[[Sequence[Child]], None] = lambda children: None
    """Called once, when all children have been ready and the routers have been checked."""
    wait_routed: Callable[[ReadyWorkers], Awaitable[Sequence[Gap]]] = no_gaps
    """Waits until the routers use the workers. Returns what still is missing after a while."""
    hung_up: Callable[[], bool] = lambda: True
    """Tells whether a SIGHUP is meant to stop everything, because the terminal is gone."""
    reload_note: str = "reloading the routing file"
    """Printed on a SIGHUP."""
    close_listener: Callable[[], Awaitable[None]] = nothing_to_close
    """Called while the routers still accept: lets them accept what is queued, and closes the listening socket."""
    drain_delay: float = 0.0
    """Seconds after the first signal in which routers still accept, but are not ready."""
    restart_wait: wait_base = field(default_factory=lambda: wait_exponential(multiplier=0.5, max=30))
    """Pause before a restart, by failures in a row."""
    kill_after: float = 5.0
    """Seconds for a child to exit before SIGKILL."""
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _children: dict[str, Child] = field(default_factory=dict)
    _histories: dict[str, ChildHistory] = field(default_factory=dict)
    _timers: set[asyncio.TimerHandle] = field(default_factory=set)
    _serving: bool = False
    _registry_check: asyncio.Task[None] | None = None
    _registry_ready: bool = False
    _check: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Start everything, supervise it, stop it. Return the exit code."""
        loop = asyncio.get_running_loop()
        signals = [sig for sig in STOP_SIGNALS if signal.getsignal(sig) is not signal.SIG_IGN]  # nohup
        for sig in signals:
            loop.add_signal_handler(sig, self._events.put_nowait, StopRequested(sig))
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, ignored)
        try:
            try:
                code = await self._watch() if await self._start_registry() else 0
            except RegistryFailed as error:
                self.console.error(str(error))
                code = 1
            await self._stop(0.0 if code else self.grace)
        finally:
            for timer in self._timers:
                timer.cancel()
            for check in (self._registry_check, self._check):
                if check is not None:
                    check.cancel()
                    await asyncio.wait([check])
            await self.registry.stop()
            for sig in (*signals, signal.SIGHUP):
                loop.remove_signal_handler(sig)
        return code

    def _hang_up(self, ignored: bool) -> None:
        """`ignored`: nohup, so that it never stops anything."""
        stop = self.hung_up() and not ignored
        self._events.put_nowait(StopRequested(signal.SIGHUP) if stop else HangUp())

    async def _start_registry(self) -> bool:
        """Return False if a stop signal arrives first. Raises RegistryFailed."""
        starting = asyncio.create_task(self.registry.start(), name="registry start")
        stopping = asyncio.create_task(self._stop_requested())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        if not stopping.cancelled():
            return False
        starting.result()
        return True

    async def _stop_requested(self) -> None:
        """Return at a stop signal. No router exists yet that a SIGHUP could concern."""
        while not isinstance(await self._events.get(), StopRequested):
            pass

    # --- running

    async def _watch(self) -> int:
        self._registry_check = asyncio.create_task(self._check_registry(), name="check of the registry")
        if not await self._start_all(ChildKind.ROUTER):
            return 1
        while True:
            try:
                async with asyncio.timeout(1.0):
                    event = await self._events.get()
            except TimeoutError:
                self._print_slow_loading()
                continue
            match event:
                case StopRequested(sig):
                    if self.grace and self._children:
                        self.console.note(f"stopping: running requests get {self.grace:.0f} s; {force_hint(sig)}")
                    return 0
                case HangUp():
                    self.console.note(self.reload_note)
                    self._reload()
                case StatusChanged(child, status):
                    self._status_changed(child, status)
                case ChildExited(child, code):
                    del self._children[child.spec.name]
                    if self._failed_to_start(child, code):
                        return 1
                    self._restart_later(child, code)
                case RestartDue(spec):
                    await self._start(spec)
                case RegistryChecked(problem):
                    if problem:
                        self.console.error(problem)
                    if problem or not await self._start_all(ChildKind.WORKER):
                        return 1
                    self._registry_ready = True
                    self._announce_readiness()
                case RoutersChecked(gaps):
                    for gap in gaps:
                        self.console.line(ChildKind.ROUTER, gap.routers, gap.problem)
                    self.on_ready(list(self._children.values()))

    async def _check_registry(self) -> None:
        try:
            await self.registry.wait_ready()
        except RegistryFailed as error:
            self._events.put_nowait(RegistryChecked(str(error)))
        else:
            self._events.put_nowait(RegistryChecked())

    async def _start_all(self, kind: ChildKind) -> bool:
        for spec in self.specs:
            if spec.kind is kind and not await self._start(spec):
                return False
        return True

    async def _start(self, spec: ChildSpec) -> bool:
        child, restarted = Child(spec), spec.name in self._histories
        history = self._histories.setdefault(spec.name, ChildHistory(Backoff(self.restart_wait, settled=SETTLED)))
        history.started = history.loading = history.printed = time.monotonic()
        try:
            await child.start(self._events.put_nowait, restarted=restarted)
        except OSError as error:
            self.console.error(f"cannot start {spec.kind} {spec.name}: {error}")
            return False
        self._children[spec.name] = child
        if spec.kind is ChildKind.WORKER:
            self.console.line(spec.kind, spec.name, "loading …")
        return True

    def _status_changed(self, child: Child, status: ChildStatus) -> None:
        history = self._histories[child.spec.name]
        if status.state == "ready":
            history.was_ready = True
            if child.spec.kind is ChildKind.ROUTER and history.backoff.failures:
                self.console.line(child.spec.kind, child.spec.name, "answers again")
            elif child.spec.kind is ChildKind.WORKER:
                duration = time.monotonic() - history.loading
                self.console.line(child.spec.kind, child.spec.name, f"ready after {duration:.0f} s")
        elif child.spec.kind is ChildKind.WORKER and (status.note or status.state != "starting"):
            history.printed = time.monotonic()
            if status.state == "restarting":
                history.loading = history.printed
            self.console.line(child.spec.kind, child.spec.name, status.note or status.state)
        self._announce_readiness()

    def _announce_readiness(self) -> None:
        """Call `on_serving` the first time that all routers are ready, and check them when all children are and the
        registry answers."""
        ready = [child.spec.name for child in self._children.values() if child.was_ready]
        missing = [spec for spec in self.specs if spec.name not in ready]
        if not self._serving and all(spec.kind is not ChildKind.ROUTER for spec in missing):
            self._serving = True
            self.on_serving()
        if self._check is None and self._registry_ready and not missing:
            self._check = asyncio.create_task(self._check_routers(), name="check of the routers")

    async def _check_routers(self) -> None:
        self._events.put_nowait(RoutersChecked(await self.wait_routed(self._ready_workers)))

    def _ready_workers(self) -> Mapping[str, RoutedWorker]:
        """Return what each worker has announced; generation 0 for one that is not ready now."""
        names = [spec.name for spec in self.specs if spec.kind is ChildKind.WORKER]
        statuses = [(name, child.status if (child := self._children.get(name)) else None) for name in names]
        return {name: RoutedWorker(s.generation, s.models) if s else RoutedWorker(0) for name, s in statuses}

    def _failed_to_start(self, child: Child, code: int) -> bool:
        """Return True, and print it, if a child exited before it was ever ready."""
        if self._histories[child.spec.name].was_ready or code <= 0:  # 0: somebody else has stopped it
            return False
        # The child has printed the reason on stderr.
        self.console.line(child.spec.kind, child.spec.name, f"could not start (exit code {code}); stopping everything")
        return True

    def _restart_later(self, child: Child, code: int) -> None:
        spec, history = child.spec, self._histories[child.spec.name]
        if code == 0 and self._age(child) >= REPLACEABLE:
            pause, when = 0.0, "stopped; starting it again"
        else:
            pause = history.backoff.pause(self._age(child))
            when = f"{describe_exit(code)}; restarting it in {pause:.1f} s"
        self.console.line(spec.kind, spec.name, when)
        loop = asyncio.get_running_loop()
        self._timers.add(loop.call_later(pause, self._events.put_nowait, RestartDue(spec)))

    def _print_slow_loading(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            history = self._histories[child.spec.name]
            slow = not child.was_ready and now - history.printed >= LOADING_LINE_INTERVAL
            if slow and child.spec.kind is ChildKind.WORKER:
                history.printed = now
                note = child.status.note if child.status and child.status.note else "loading"
                self.console.line(child.spec.kind, child.spec.name, f"{note} … {self._age(child):.0f} s")

    def _age(self, child: Child) -> float:
        return time.monotonic() - self._histories[child.spec.name].started

    # --- stopping

    async def _stop(self, grace: float) -> None:
        """Stop routers first, so that no new request reaches the agents."""
        if grace and self.drain_delay and not await self._delay():
            grace = 0.0
        await self.close_listener()
        deadline = time.monotonic() + grace
        for kind in (ChildKind.ROUTER, ChildKind.WORKER):
            if deadline and not await self._drain(kind, deadline):
                deadline = 0.0
        await self._stop_now()

    async def _delay(self) -> bool:
        """Let the routers accept for the drain delay, not ready. Return False on a second stop signal."""
        self._signal(ChildKind.ROUTER, signal.SIGTERM)
        return await self._wait_exits(ChildKind.ROUTER, time.monotonic() + max(0.0, self.drain_delay - CLOSING_TIME))

    async def _drain(self, kind: ChildKind, deadline: float) -> bool:
        """Stop all children of a kind and wait. Return False on a second stop signal."""
        self._signal(kind, signal.SIGTERM)
        # Without grace left, an agent still needs a moment to leave the registry and stop its vLLM.
        return await self._wait_exits(kind, max(deadline, time.monotonic()) + self.kill_after)

    async def _wait_exits(self, kind: ChildKind, deadline: float) -> bool:
        """Wait until all children of a kind have exited, or until `deadline`. Return False on a stop signal."""
        while any(child.spec.kind is kind for child in self._children.values()):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    event = await self._events.get()
            except TimeoutError:
                return True
            match event:
                case StopRequested():
                    self.console.note("stopping now")
                    return False
                case ChildExited(child):
                    self._children.pop(child.spec.name, None)
                case _:
                    pass
        return True

    async def _stop_now(self) -> None:
        """Kill routers. Agents must clean up: a second SIGTERM stops them now, SIGKILL follows."""
        self._signal(ChildKind.ROUTER, signal.SIGKILL)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            self._signal(ChildKind.WORKER, sig)
            deadline = time.monotonic() + self.kill_after
            while self._children and (remaining := deadline - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining):
                        event = await self._events.get()
                    if isinstance(event, ChildExited):
                        self._children.pop(event.child.spec.name, None)

    def _reload(self) -> None:
        """Signal the routers. One that starts reads the file anyway."""
        for child in self._children.values():
            if child.spec.kind is ChildKind.ROUTER and child.was_ready:
                child.signal(signal.SIGHUP)

    def _signal(self, kind: ChildKind, sig: signal.Signals) -> None:
        for child in self._children.values():
            if child.spec.kind is kind:
                child.signal(sig)


def force_hint(sig: signal.Signals) -> str:
    """Describe how to stop at once after this first signal. Any second stop signal does."""
    return "Ctrl-C again stops at once" if sig == signal.SIGINT else f"a second {sig.name} or Ctrl-C stops at once"


def describe_exit(code: int) -> str:
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"

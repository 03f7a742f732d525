"""Supervise the registry, router processes and worker agents of `vllama serve`.

One loop handles queued signals, exits and status reports.

- A child that exits before it was ever ready has a permanent fault (a wrong flag, a broken file): everything is
  stopped. A child that was ready, or was killed, is restarted with back-off.
- First stop signal: routers stop accepting and finish their streams, then the agents drain, all within `grace`
  seconds. Second: everything is stopped at once.
- If this process is killed, the kernel signals its children (see `workers/process/lifeline.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vllama_pool.config.redis_address import RedisAddress
from vllama_pool.router.supervisor.child import Child, ChildExited, ChildKind, ChildSpec, StatusChanged
from vllama_pool.router.supervisor.console import Console
from vllama_pool.workers.process.backoff import Backoff, wait_base, wait_exponential
from vllama_pool.workers.process.file_lock import FileLock
from vllama_pool.workers.process.lifeline import signal_name
from vllama_pool.workers.process.status import ChildStatus
from vllama_pool.workers.registry.client import RegistryUnavailable, wait_usable
from vllama_pool.workers.registry.embedded import EmbeddedFailed, EmbeddedValkey, claim, wait_ready

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLAIM_INTERVAL = 0.5
"""Seconds between attempts to become the registry's owner."""
LOADING_LINE_INTERVAL = 15.0
"""Seconds between console lines about a worker that is still loading."""


class RegistryServer(Protocol):
    async def start(self) -> None:
        """Return once it answers. Raises RegistryFailed."""

    async def stop(self) -> None: ...


class RegistryFailed(Exception):
    """The message is one line with the remedy."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    sig: signal.Signals


@dataclass(frozen=True, slots=True)
class RestartDue:
    spec: ChildSpec


Event = StatusChanged | ChildExited | StopRequested | RestartDue

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
    """Called once, when all children have been ready."""
    on_drain: Callable[[], None] = lambda: None
    """Called before any child is stopped: closes the listening socket."""
    restart_wait: wait_base = field(default_factory=lambda: wait_exponential(multiplier=0.5, max=30))
    """Pause before a restart, by failures in a row."""
    kill_after: float = 5.0
    """Seconds for a child to exit before SIGKILL."""
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _children: dict[str, Child] = field(default_factory=dict)
    _histories: dict[str, ChildHistory] = field(default_factory=dict)
    _timers: set[asyncio.TimerHandle] = field(default_factory=set)
    _serving: bool = False
    _all_ready: bool = False

    async def run(self) -> int:
        """Start everything, supervise it, stop it. Return the exit code."""
        loop = asyncio.get_running_loop()
        signals = [sig for sig in STOP_SIGNALS if signal.getsignal(sig) is not signal.SIG_IGN]  # nohup
        for sig in signals:
            loop.add_signal_handler(sig, self._events.put_nowait, StopRequested(sig))
        try:
            try:
                await self.registry.start()
                code = await self._watch()
            except RegistryFailed as error:
                self.console.error(str(error))
                code = 1
            await self._stop(0.0 if code else self.grace)
        finally:
            for timer in self._timers:
                timer.cancel()
            await self.registry.stop()
            for sig in signals:
                loop.remove_signal_handler(sig)
        return code

    # --- running

    async def _watch(self) -> int:
        for spec in self.specs:
            if not await self._start(spec):
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
                case StatusChanged(child, status):
                    self._status_changed(child, status)
                case ChildExited(child, code):
                    del self._children[child.spec.name]
                    if self._failed_to_start(child, code):
                        return 1
                    self._restart_later(child, code)
                case RestartDue(spec):
                    await self._start(spec)

    async def _start(self, spec: ChildSpec) -> bool:
        child = Child(spec)
        history = self._histories.setdefault(spec.name, ChildHistory(Backoff(self.restart_wait, settled=SETTLED)))
        history.started = history.loading = history.printed = time.monotonic()
        try:
            await child.start(self._events.put_nowait)
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
        """Call `on_serving` and `on_ready` the first time that all routers, and all children, are ready."""
        ready = [child.spec.name for child in self._children.values() if child.was_ready]
        missing = [spec for spec in self.specs if spec.name not in ready]
        if not self._serving and all(spec.kind is not ChildKind.ROUTER for spec in missing):
            self._serving = True
            self.on_serving()
        if not self._all_ready and not missing:
            self._all_ready = True
            self.on_ready(list(self._children.values()))

    def _failed_to_start(self, child: Child, code: int) -> bool:
        """Return True, and print it, if a child exited before it was ever ready."""
        if self._histories[child.spec.name].was_ready or code < 0:
            return False
        # The child has printed the reason on stderr.
        self.console.line(child.spec.kind, child.spec.name, f"could not start (exit code {code}); stopping everything")
        return True

    def _restart_later(self, child: Child, code: int) -> None:
        spec, history = child.spec, self._histories[child.spec.name]
        pause = history.backoff.pause(self._age(child))
        self.console.line(spec.kind, spec.name, f"{describe_exit(code)}; restarting it in {pause:.1f} s")
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
        self.on_drain()
        deadline = time.monotonic() + grace
        for kind in (ChildKind.ROUTER, ChildKind.WORKER):
            if deadline and not await self._drain(kind, deadline):
                deadline = 0.0
        await self._stop_now()

    async def _drain(self, kind: ChildKind, deadline: float) -> bool:
        """Stop all children of a kind and wait. Return False on a second stop signal."""
        self._signal(kind, signal.SIGTERM)
        while any(child.spec.kind is kind for child in self._children.values()):
            # Without grace left, an agent still needs a moment to leave the registry and stop its vLLM.
            timeout = max(deadline - time.monotonic(), 0.0) + self.kill_after
            try:
                async with asyncio.timeout(timeout):
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

    def _signal(self, kind: ChildKind, sig: signal.Signals) -> None:
        for child in self._children.values():
            if child.spec.kind is kind:
                child.signal(sig)


def force_hint(sig: signal.Signals) -> str:
    """Describe how to stop at once after this first signal. Any second stop signal does."""
    return "Ctrl-C again stops at once" if sig == signal.SIGINT else f"a second {sig.name} or Ctrl-C stops at once"


def describe_exit(code: int) -> str:
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"


class EmbeddedRegistry:
    """The embedded Valkey. One `serve` per state directory owns it; another takes over when the owner exits."""

    def __init__(self, state_dir: Path, console: Console) -> None:
        self._state_dir = state_dir
        self._console = console
        self._owner: FileLock | None = None
        self._valkey: EmbeddedValkey | None = None
        self._succession: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            self._owner = claim(self._state_dir)
            if self._owner is not None:
                await self._run_valkey()
                self._console.line("registry", "valkey", self.address)
                return
            await wait_ready(self.address)
        except (EmbeddedFailed, RegistryUnavailable) as error:
            raise RegistryFailed(str(error)) from error
        self._console.line("registry", "valkey", f"{self.address} (run by another vllama serve)")
        self._succession = asyncio.create_task(self._take_over(), name="registry succession")

    async def stop(self) -> None:
        if self._succession is not None:
            self._succession.cancel()
            await asyncio.wait([self._succession])
        if self._valkey is not None:
            await self._valkey.stop()
        if self._owner is not None:
            self._owner.release()

    @property
    def address(self) -> str:
        return EmbeddedValkey(self._state_dir).address

    async def _run_valkey(self) -> None:
        self._valkey = EmbeddedValkey(self._state_dir, say=lambda text: self._console.line("registry", "valkey", text))
        await self._valkey.start()
        await self._valkey.wait_ready()

    async def _take_over(self) -> None:
        while self._owner is None:
            await asyncio.sleep(CLAIM_INTERVAL)
            self._owner = claim(self._state_dir)
        self._console.line("registry", "valkey", "its owner has exited; running it here")
        try:
            await self._run_valkey()
        except EmbeddedFailed as error:
            self._console.error(str(error))


class ExternalRegistry:
    """A Redis or Valkey that runs elsewhere."""

    def __init__(self, address: RedisAddress, fleet: str, console: Console) -> None:
        self._address = address
        self._fleet = fleet
        self._console = console

    async def start(self) -> None:
        try:
            await wait_usable(self._address, self._fleet, lambda text: self._console.line("registry", "redis", text))
        except RegistryUnavailable as error:
            raise RegistryFailed(str(error)) from error
        self._console.line("registry", "redis", str(self._address))

    async def stop(self) -> None:
        pass

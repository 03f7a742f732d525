"""What `vllama serve` starts and owns: the embedded registry, the router processes and the worker agents.

Each is a process of its own, so that none takes another along. Signals, ends and reports are queued, and one
loop acts on them. Restarting routers touches neither the registry nor the GPUs.

- A child that ends before it was ever ready has a cause that another try will not remove (a wrong flag, a
  broken file): everything is stopped. One that was ready, or was killed, is started again, with pauses.
- First signal: routers stop accepting and finish their streams, then the agents drain, all within `grace`
  seconds. Second signal: everything is stopped now.
- If this process is killed, its children are told by the kernel (see `workers/process/lifeline.py`).
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

from vllama_pool.router.supervisor.child import Backoff, Child, ChildExited, ChildKind, ChildSpec, StatusChanged
from vllama_pool.router.supervisor.console import Console
from vllama_pool.workers.process.lifeline import signal_name
from vllama_pool.workers.process.status import Status
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.embedded import EmbeddedFailed, EmbeddedValkey, Owner, claim, wait_ready

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLAIM_INTERVAL = 0.5
"""Seconds between two looks at whether the owner of the registry has gone."""
HEARTBEAT = 15.0
"""Seconds after which a worker that is still loading is mentioned again."""


class RegistryServer(Protocol):
    """The registry's server, as far as `serve` cares for it."""

    async def start(self) -> None:
        """Make sure that it answers. Raises RegistryFailed."""

    async def stop(self) -> None: ...


class RegistryFailed(Exception):
    """There is no registry. The text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants us to stop."""


@dataclass(frozen=True, slots=True)
class RestartDue:
    """The pause before a child's next start is over."""

    spec: ChildSpec


Event = StatusChanged | ChildExited | StopRequested | RestartDue


@dataclass(slots=True)
class ChildHistory:
    """What is remembered of a child over its restarts."""

    started: float = 0.0
    loading: float = 0.0
    """When it last began to become ready: at its start, or when a worker's server went down."""
    failures: int = 0
    was_ready: bool = False
    announced: float = 0.0
    """When it was last mentioned on the console while loading."""


@dataclass(slots=True)
class Supervisor:
    """Runs `specs` until a signal or until something cannot be started."""

    specs: Sequence[ChildSpec]
    store: RegistryServer
    console: Console
    grace: float
    """Seconds that running requests get to finish after the first signal."""
    on_serving: Callable[[], None] = lambda: None
    """Called once, when every router process answers."""
    on_ready: Callable[[Sequence[Child]], None] = lambda children: None
    """Called once, when every child has been ready."""
    on_drain: Callable[[], None] = lambda: None
    """Called at the first signal, before any child is told: closes the listening socket."""
    backoff: Backoff = field(default_factory=Backoff)
    kill_after: float = 5.0
    """Seconds that a child gets to end after it was told to stop now."""
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _children: dict[str, Child] = field(default_factory=dict)
    _histories: dict[str, ChildHistory] = field(default_factory=dict)
    _timers: set[asyncio.TimerHandle] = field(default_factory=set)
    _serving: bool = False
    _greeted: bool = False

    async def run(self) -> int:
        """Start everything, watch over it, stop it. Returns the exit code."""
        loop = asyncio.get_running_loop()
        signals = [sig for sig in STOP_SIGNALS if signal.getsignal(sig) is not signal.SIG_IGN]  # nohup
        for sig in signals:
            loop.add_signal_handler(sig, self._events.put_nowait, StopRequested())
        try:
            try:
                await self.store.start()
                code = await self._watch()
            except RegistryFailed as error:
                self.console.error(str(error))
                code = 1
            await self._stop(0.0 if code else self.grace)
        finally:
            for timer in self._timers:
                timer.cancel()
            await self.store.stop()
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
                self._mention_the_slow()
                continue
            match event:
                case StopRequested():
                    return 0
                case StatusChanged(child, status):
                    self._heard(child, status)
                case ChildExited(child, code):
                    del self._children[child.spec.name]
                    if self._hopeless(child, code):
                        return 1
                    self._start_later(child, code)
                case RestartDue(spec):
                    await self._start(spec)

    async def _start(self, spec: ChildSpec) -> bool:
        child = Child(spec)
        history = self._histories.setdefault(spec.name, ChildHistory())
        history.started = history.loading = history.announced = time.monotonic()
        try:
            await child.start(self._events.put_nowait)
        except OSError as error:
            self.console.error(f"cannot start {spec.kind} {spec.name}: {error}")
            return False
        self._children[spec.name] = child
        if spec.kind is ChildKind.WORKER:
            self.console.line(spec.kind, spec.name, "loading …")
        return True

    def _heard(self, child: Child, status: Status) -> None:
        history = self._histories[child.spec.name]
        if status.state == "ready":
            history.was_ready = True
            if child.spec.kind is ChildKind.ROUTER and history.failures:
                self.console.line(child.spec.kind, child.spec.name, "answers again")
            elif child.spec.kind is ChildKind.WORKER:
                took = time.monotonic() - history.loading
                self.console.line(child.spec.kind, child.spec.name, f"ready after {took:.0f} s")
        elif child.spec.kind is ChildKind.WORKER and (status.note or status.state != "starting"):
            history.announced = time.monotonic()
            if status.state == "restarting":
                history.loading = history.announced
            self.console.line(child.spec.kind, child.spec.name, status.note or status.state)
        self._celebrate()

    def _celebrate(self) -> None:
        """Say it when the routers, and when all are ready for the first time."""
        ready = [child.spec.name for child in self._children.values() if child.was_ready]
        missing = [spec for spec in self.specs if spec.name not in ready]
        if not self._serving and all(spec.kind is not ChildKind.ROUTER for spec in missing):
            self._serving = True
            self.on_serving()
        if not self._greeted and not missing:
            self._greeted = True
            self.on_ready(list(self._children.values()))

    def _hopeless(self, child: Child, code: int) -> bool:
        """Whether a child's end at start-up is one that a restart cannot cure. Says so."""
        if self._histories[child.spec.name].was_ready or code < 0:
            return False
        # What is wrong, the child itself has said on stderr.
        self.console.line(child.spec.kind, child.spec.name, f"could not start (exit code {code}); stopping everything")
        return True

    def _start_later(self, child: Child, code: int) -> None:
        spec, history = child.spec, self._histories[child.spec.name]
        history.failures = self.backoff.failures(history.failures, self._age(child))
        pause = self.backoff.pause(history.failures)
        self.console.line(spec.kind, spec.name, f"{ending(code)}; starting it again in {pause:.1f} s")
        loop = asyncio.get_running_loop()
        self._timers.add(loop.call_later(pause, self._events.put_nowait, RestartDue(spec)))

    def _mention_the_slow(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            history = self._histories[child.spec.name]
            slow = not child.was_ready and now - history.announced >= HEARTBEAT
            if slow and child.spec.kind is ChildKind.WORKER:
                history.announced = now
                note = child.status.note if child.status and child.status.note else "loading"
                self.console.line(child.spec.kind, child.spec.name, f"{note} … {self._age(child):.0f} s")

    def _age(self, child: Child) -> float:
        return time.monotonic() - self._histories[child.spec.name].started

    # --- stopping

    async def _stop(self, grace: float) -> None:
        """Routers first, so that nothing new reaches the agents; a further signal cuts it short."""
        self.on_drain()
        deadline = time.monotonic() + grace
        if grace and self._children:
            self.console.note(f"stopping: running requests get {grace:.0f} s; Ctrl-C again stops at once")
        for kind in (ChildKind.ROUTER, ChildKind.WORKER):
            if deadline and not await self._drain(kind, deadline):
                deadline = 0.0
        await self._end_now()

    async def _drain(self, kind: ChildKind, deadline: float) -> bool:
        """Ask all of a kind to end and wait for it. False if a second signal came."""
        self._signal(kind, signal.SIGTERM)
        while any(child.spec.kind is kind for child in self._children.values()):
            # Even with no grace left, an agent gets a moment to leave the registry and stop its vLLM.
            left = max(deadline - time.monotonic(), 0.0) + self.kill_after
            try:
                async with asyncio.timeout(left):
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

    async def _end_now(self) -> None:
        """Routers have nothing to put in order. An agent has; a second SIGTERM means "now" to it."""
        self._signal(ChildKind.ROUTER, signal.SIGKILL)
        for sig in (signal.SIGTERM, signal.SIGKILL):
            self._signal(ChildKind.WORKER, sig)
            deadline = time.monotonic() + self.kill_after
            while self._children and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        event = await self._events.get()
                    if isinstance(event, ChildExited):
                        self._children.pop(event.child.spec.name, None)

    def _signal(self, kind: ChildKind, sig: signal.Signals) -> None:
        for child in self._children.values():
            if child.spec.kind is kind:
                child.signal(sig)


def ending(code: int) -> str:
    """A child's end in words, from its return code."""
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"


class EmbeddedRegistry:
    """The embedded Valkey, run by us, or by another `serve` of the same state directory until that ends."""

    def __init__(self, state_dir: Path, console: Console) -> None:
        self._state_dir = state_dir
        self._console = console
        self._owner: Owner | None = None
        self._valkey: EmbeddedValkey | None = None
        self._succession: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            self._owner = claim(self._state_dir)
            if self._owner is not None:
                await self._take_charge()
                self._console.line("registry", "valkey", self.address)
                return
            await wait_ready(self.address)
        except (EmbeddedFailed, RegistryUnavailable) as error:
            raise RegistryFailed(str(error)) from error
        self._console.line("registry", "valkey", f"{self.address} (run by another vllama serve)")
        self._succession = asyncio.create_task(self._succeed(), name="registry succession")

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

    async def _take_charge(self) -> None:
        self._valkey = EmbeddedValkey(self._state_dir, say=lambda text: self._console.line("registry", "valkey", text))
        await self._valkey.start()
        await self._valkey.wait_ready()

    async def _succeed(self) -> None:
        """Wait until the owner is gone, and take its place."""
        while self._owner is None:
            await asyncio.sleep(CLAIM_INTERVAL)
            self._owner = claim(self._state_dir)
        self._console.line("registry", "valkey", "its owner is gone; running it from here")
        try:
            await self._take_charge()
        except EmbeddedFailed as error:
            self._console.error(str(error))


class ExternalRegistry:
    """A Redis that somebody else runs."""

    def __init__(self, address: str, shown: str, console: Console) -> None:
        self._address = address
        self._shown = shown
        """The address without its password."""
        self._console = console

    async def start(self) -> None:
        try:
            await wait_ready(self._address, timeout=0.0)
        except RegistryUnavailable as error:
            raise RegistryFailed(str(error)) from error
        self._console.line("registry", "redis", self._shown)

    async def stop(self) -> None:
        pass

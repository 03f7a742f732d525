"""The listener of a simulated worker, and the faults of the whole worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from vllama_pool.workers.simulated import errors, faults
from vllama_pool.workers.simulated.engine import Engine
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.http_server import Connection, Exchange, Request
from vllama_pool.workers.simulated.inference import Inference
from vllama_pool.workers.simulated.metrics import SimulatedMetrics
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.routes import Routes

BACKLOG = 2048
RESET_DELAY = 0.05
"""Seconds until connections are reset: the client that asked for it gets its answer before."""
REMEMBERED = 256


class Simulated:
    """One simulated worker. Several may share an event loop.

    A fault that kills the worker calls `die`, by default `vanish`.
    """

    def __init__(self, options: Options | None = None, *, die: Callable[[], None] | None = None) -> None:
        self.options = options or Options()
        self.port = self.options.port
        self.keep_alive = self.options.keep_alive
        self.connections: set[Connection] = set()
        self.received: deque[Request] = deque(maxlen=REMEMBERED)
        """The latest requests."""
        self.requests: Counter[str] = Counter()
        self._faults = faults.FaultPlan()
        kv_tokens = self.options.slots * self.options.max_model_len
        self.metrics = SimulatedMetrics(self.options.model, kv_tokens)
        self.engine_loop = EngineLoop(Engine(self.options.pace, self.metrics), lambda: self._faults.slowdown)
        self._die = die or self.vanish
        self._inference = Inference(
            self.options, self.engine_loop, self.metrics, unavailable=self._unavailable, die=self._die
        )
        self._routes = Routes(
            self.options,
            self._inference,
            self.engine_loop,
            self.metrics,
            self._faults,
            die=self._die,
            set_faults=self.set_faults,
            stats=self.stats,
        )
        self._server: asyncio.Server | None = None
        self._thaw: asyncio.TimerHandle | None = None
        self._listen_again: asyncio.TimerHandle | None = None
        self._exit: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._frozen = False
        self._draining = False

    # --- life cycle ---

    async def start(self) -> int:
        """Returns the port. Raises OSError."""
        await self.listen()
        self.set_faults(self.options.faults)
        return self.port

    async def stop(self) -> None:
        """Close everything. Idempotent."""
        self.vanish()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # asyncio closes transports in the next turn of the loop
        await asyncio.sleep(0)

    async def drain(self, timeout: float) -> None:
        """Finish running requests within `timeout` seconds, and stop, like vLLM after SIGTERM."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._inference.idle.wait()
        await self.stop()

    async def listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), self.options.host, self.port, backlog=BACKLOG, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def vanish(self) -> None:
        """Stop listening and reset every connection, like a killed process."""
        self.refuse()
        self.engine_loop.stop()
        self.engine_loop.engine.clear()
        for timer in (self._thaw, self._listen_again, self._exit):
            if timer is not None:
                timer.cancel()
        self._reset_connections()

    def _reset_connections(self) -> None:
        for connection in list(self.connections):
            connection.close(reset=True)

    async def __aenter__(self) -> Simulated:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.port}"

    # --- faults ---

    def set_faults(self, plan: Iterable[faults.Fault]) -> None:
        """Replace all faults. Those of the worker apply at once."""
        was_dead = self._faults.active(faults.Dead) is not None
        self._faults.replace(plan)
        self._set_refusing(self._faults.active(faults.Refuse))
        dead = self._faults.active(faults.Dead)
        if isinstance(dead, faults.Dead) and not was_dead:
            self._kill_engine()
            if dead.exit_after is not None:
                self._exit = asyncio.get_running_loop().call_later(dead.exit_after, self._die)
        frozen = self._faults.active(faults.Freeze)
        if isinstance(frozen, faults.Freeze):
            # later: the response to this request is not written yet
            asyncio.get_running_loop().call_soon(self._freeze, frozen.seconds)

    def _set_refusing(self, fault: object) -> None:
        if self._listen_again is not None:
            self._listen_again.cancel()
            self._listen_again = None
        if not isinstance(fault, faults.Refuse):
            self._spawn_listen()
            return
        self.refuse()
        loop = asyncio.get_running_loop()
        if fault.reset:
            loop.call_later(RESET_DELAY, self._reset_connections)
        if fault.seconds is not None:
            self._listen_again = loop.call_later(fault.seconds, self._spawn_listen)

    def _spawn_listen(self) -> None:
        if self._server is None:
            task = asyncio.get_running_loop().create_task(self.listen())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _kill_engine(self) -> None:
        self.engine_loop.engine.clear()
        for task in list(self._inference.tasks):
            task.fail(errors.engine_dead())

    def _freeze(self, seconds: float) -> None:
        self._frozen = True
        self.engine_loop.freeze()
        if self._thaw is not None:
            self._thaw.cancel()
        self._thaw = asyncio.get_running_loop().call_later(seconds, self._end_freeze)

    def _end_freeze(self) -> None:
        self._frozen = False
        self.engine_loop.unfreeze()
        for connection in list(self.connections):
            connection.thaw()

    # --- state ---

    @property
    def frozen(self) -> bool:
        return self._frozen

    @property
    def listening(self) -> bool:
        return self._server is not None

    @property
    def ignores_sigterm(self) -> bool:
        return self._faults.active(faults.IgnoreSigterm) is not None

    def handle(self, request: Request, exchange: Exchange) -> None:
        if not request.path.startswith("/simulated"):
            self.requests[request.path] += 1
            self.received.append(request)
        self._routes.handle(request, exchange)

    def _unavailable(self) -> ApiError | None:
        if self._faults.active(faults.Dead):
            return errors.engine_dead()
        if self._draining or self._faults.active(faults.Draining):
            return errors.shutting_down()
        return None

    # --- statistics ---

    @property
    def running(self) -> int:
        return len(self.engine_loop.engine.running)

    @property
    def waiting(self) -> int:
        return len(self.engine_loop.engine.waiting)

    @property
    def tokens(self) -> int:
        return self.metrics.generation_tokens

    @property
    def aborted(self) -> int:
        return self._inference.aborted

    def stats(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "tokens": self.tokens,
            "prompt_tokens": self.metrics.prompt_tokens,
            "finished": dict(self.metrics.finished_by),
            "aborted": self.aborted,
            "rejected": self.metrics.rejected,
            "running": self.running,
            "waiting": self.waiting,
            "connections": len(self.connections),
        }

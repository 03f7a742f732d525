"""A row of the matrix, its run, and its result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.fleet import USUAL, Fleet, Plan, fleet
from tests.chaos.load import Load, Outcome
from tests.chaos.requests import Result
from tests.chaos.waiting import Condition, wait_until
from tests.support.until import auntil
from tests.support.vllm.simulated import SimulatedProcess
from vllama_pool.config.routing.table import load

LIMIT, FULL_LIMIT = 60.0, 600.0
"""Seconds for a row."""
BROKEN = (AssertionError, OSError, httpx.HTTPError, psutil.Error)
"""Errors of a fleet that does not start, or does not mend."""
EVIDENCE = 4
"""Outcomes that a failed row shows."""


class Skipped(Exception):
    """The row cannot run here. `str()` says why."""


@dataclass
class Scene:
    """The fleet of a row, and its findings."""

    fleet: Fleet
    full: bool
    """The full size instead of the small one."""
    patience: float
    """Factor for the bounds of time, for busy machines."""
    name: str
    recovered: float | None = None
    """Seconds until the fleet was whole again, or until the fault had no effect any more."""
    loads: list[Load] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Figures."""
    resources: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """Closed after the row."""

    def load(self, **options: object) -> Load:
        """Return a load, on all routers by default, whose outcomes are the row's."""
        made = Load(**{"ports": lambda: self.fleet.ports, "name": self.name, **options})  # type: ignore[arg-type]
        self.loads.append(made)
        return made

    def outcomes(self) -> list[Outcome]:
        return [outcome for load in self.loads for outcome in load.outcomes]

    def size(self, small: float, full: float) -> float:
        """Return a duration or a count of the present size."""
        return full if self.full else small

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    async def static_worker(self, *flags: str, model: str = "m", **env: str) -> SimulatedProcess:
        """Start a worker without an agent. `route` makes it known to the routers."""
        worker = await asyncio.to_thread(SimulatedProcess, *flags, model=model, env=env)
        self.resources.callback(worker.stop)
        return worker

    async def proxy(self, port: int) -> FaultProxy:
        return await self.resources.enter_async_context(FaultProxy(("127.0.0.1", port)))

    async def route(self, models: str = "{}", **workers: str) -> None:
        """Save a routing file with these models and static workers, URLs by name. Wait until routers use them."""
        lines = ["reload: {orphans: allow}", f"models: {models}", "workers:" if workers else "workers: []"]
        lines += [f"  - {{name: {name}, url: '{url}'}}" for name, url in workers.items()]
        await asyncio.to_thread(self.fleet.routing_file.write_text, "\n".join(lines) + "\n")

        revision = (await asyncio.to_thread(load, self.fleet.routing_file)).revision

        async def live() -> bool:
            pages = [(await router.get("/admin/routing")).json() for router in self.fleet.routers if router.alive]
            return all(state["revision"] == revision for page in pages for state in page.values())

        def known(page: dict[str, dict[str, object]]) -> bool:
            return all(f"static/{name}" in page and page[f"static/{name}"]["state"] == "ready" for name in workers)

        await wait_until(live, 20, "routers have read the routing file")
        await wait_until(lambda: self.fleet.everywhere(known), 20, f"routers use {', '.join(workers)}")

    async def recovers(self, condition: Condition, bound: float, what: str, *, since: float | None = None) -> float:
        """Wait until the condition holds; a problem if that takes longer than the bound. Returns the seconds."""
        start = time.monotonic() if since is None else since
        bound *= self.patience
        await wait_until(condition, bound + 10, what)
        took = time.monotonic() - start
        self.recovered = max(self.recovered or 0.0, took)
        self.check(took <= bound, f"{what}: after {took:.1f} s; the bound is {bound:g} s")
        return took

    async def until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Wait for a step of the row itself. Raises AssertionError if it does not happen."""
        await auntil(condition, timeout * self.patience, what)

    async def holds(self, condition: Condition, seconds: float, what: str) -> None:
        """Poll a condition that must stay true for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if not value:
                self.problems.append(f"did not stay true: {what}")
                return
            await asyncio.sleep(0.1)


Run = Callable[[Scene], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Row:
    name: str
    fault: str
    proves: str
    run: Run
    plan: Plan
    full_plan: Plan
    """Of the full size."""
    allowed: frozenset[str]
    """Kinds of errors that clients may see; see `Verdict.kind`."""
    may_lose: bool
    """Streams of a killed router may break."""

    @property
    def number(self) -> int:
        return int(self.name[1:])

    def plan_of(self, *, full: bool) -> Plan:
        return self.full_plan if full else self.plan


class Rows:
    """The rows by name. Modules add theirs by the decorator `row`."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def row(
        self,
        name: str,
        fault: str,
        proves: str,
        *,
        plan: Plan = USUAL,
        full_plan: Plan | None = None,
        allowed: Iterable[str] = (),
        may_lose: bool = False,
    ) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            if name in self._rows:
                raise ValueError(f"two rows are named {name}")
            self._rows[name] = Row(name, fault, proves, run, plan, full_plan or plan, frozenset(allowed), may_lose)
            return run

        return add

    def all(self) -> list[Row]:
        return sorted(self._rows.values(), key=lambda row: row.number)


@dataclass(frozen=True)
class Finding:
    """The result of a row."""

    row: Row
    requests: int = 0
    lost: int = 0
    errors: str = ""
    """Counts by kind of error."""
    recovered: float | None = None
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return not self.problems and not self.skipped


def judge_row(row: Row, scene: Scene, seconds: float) -> Finding:
    outcomes = scene.outcomes()
    lost = [outcome for outcome in outcomes if outcome.lost]
    errors = [outcome for outcome in outcomes if outcome.verdict.result is Result.ERROR]
    unexpected = [outcome for outcome in errors if outcome.verdict.kind not in row.allowed]
    problems = list(scene.problems)
    if lost and not row.may_lose:
        problems.append(_listed(f"{len(lost)} of {len(outcomes)} requests are lost", lost))
    if unexpected:
        problems.append(_listed(f"{len(unexpected)} errors that this fault may not cause", unexpected))
    if scene.loads and not outcomes:
        problems.append("the load sent no request")
    counts = Counter(outcome.verdict.kind for outcome in errors)
    return Finding(
        row,
        len(outcomes),
        len(lost),
        ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items())),
        scene.recovered,
        seconds,
        tuple(problems),
        tuple(scene.notes),
    )


def _listed(title: str, outcomes: list[Outcome]) -> str:
    some = [f"{title}:", *(f"    {outcome.verdict.kind} {outcome}" for outcome in outcomes[:EVIDENCE])]
    return "\n".join([*some, "    ..."] if len(outcomes) > EVIDENCE else some)


async def ended(run: Coroutine[Any, Any, None], limit: float) -> BaseException | None:
    """Return the exception of a row, whatever it is, so that the next row runs; None without one."""
    task = asyncio.create_task(run)
    try:
        await asyncio.wait((task,), timeout=limit)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return TimeoutError(f"not ended within {limit:g} s")
        return task.exception()
    finally:
        task.cancel()


class Stage:
    """Runs rows one after the other. Rows of one plan share a fleet, which is replaced if it does not mend."""

    def __init__(self, folder: Path, *, full: bool = False, patience: float = 1.0) -> None:
        self._folder = folder
        self._full = full
        self._patience = patience
        self._fleet: Fleet | None = None
        self._ending: Callable[[], Awaitable[object]] | None = None
        self._count = 0

    async def run(self, row: Row) -> Finding:
        start = time.monotonic()
        try:
            running = await self._ready(row.plan_of(full=self._full))
        except BROKEN as error:
            await self.close()
            return Finding(row, seconds=time.monotonic() - start, problems=(f"the fleet did not start: {error}",))
        scene = Scene(running, self._full, self._patience, row.name)
        start = time.monotonic()
        try:
            problem = await ended(row.run(scene), (FULL_LIMIT if self._full else LIMIT) * self._patience)
        finally:
            await scene.resources.aclose()
        if isinstance(problem, Skipped):
            return Finding(row, skipped=str(problem))
        if problem is not None:
            cause = problem.exceptions[0] if isinstance(problem, BaseExceptionGroup) else problem
            scene.problems.append(f"{type(cause).__name__}: {cause}")
        return judge_row(row, scene, time.monotonic() - start)

    async def _ready(self, plan: Plan) -> Fleet:
        if self._fleet is not None and self._fleet.plan is plan:
            try:
                await self._fleet.mend()
                return self._fleet
            except BROKEN:
                await self.close()
        else:
            await self.close()
        self._count += 1
        context = fleet(self._folder / f"fleet-{self._count}", plan)
        self._fleet = await context.__aenter__()
        self._ending = lambda: context.__aexit__(None, None, None)
        return self._fleet

    async def close(self) -> None:
        if self._ending is not None:
            ending, self._ending, self._fleet = self._ending, None, None
            await ending()

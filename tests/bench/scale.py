"""Measures one router with many streams, workers, models or processes: the points of the curves."""

from __future__ import annotations

import http.client
import resource
import time
from dataclasses import dataclass, replace

import msgspec

from tests.bench.apis import OLLAMA, Api
from tests.bench.contenders import vllama
from tests.bench.fleet import model_name
from tests.bench.processes import cpu_seconds, memory_bytes
from tests.bench.programs import CannotMeasure
from tests.bench.rig import LOOPBACK, Load, Rig, finish, fleet
from tests.bench.running import Router, running, status, watch_beside
from tests.bench.samples import problem
from tests.bench.scenarios import Answers, Scenario

RATE = 6000
"""Tokens per second of all streams together, unless each would be slower than QUICKEST."""
QUICKEST = 20_000
"""Microseconds between two tokens of a stream."""
OPENINGS = 500
"""Streams opened per second."""
WINDOW = 5.0
"""Seconds."""
FEW = 100
"""Streams below which their memory is lost in the router's own."""
SPARE_FILES = 200
"""Descriptors that a router needs besides its connections."""
IDLE = 3.0
"""Seconds."""
JOIN_LIMIT = 30.0
"""Seconds."""
REQUESTS = Scenario("requests", "", Answers(1), False, 32, 4000)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a curve: figures by name, in the units of `curves.CURVES`."""

    x: int
    other: float
    """Cores that other programs used meanwhile."""
    figures: dict[str, float]


def most_streams(wanted: int) -> int:
    """A stream takes two descriptors of the router."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, (soft - SPARE_FILES) // 2)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Paced streams that are all open for WINDOW seconds."""

    streams: int

    @property
    def delay(self) -> int:
        """Microseconds between two tokens of a stream."""
        return max(QUICKEST, self.streams * 1_000_000 // RATE)

    @property
    def opening(self) -> float:
        """Seconds until all are open and have a token."""
        return max(1.0, self.streams / OPENINGS)

    @property
    def scenario(self) -> Scenario:
        seconds = self.opening + 2 * self.delay / 1e6 + WINDOW + 2
        answers = Answers(int(seconds * 1e6 / self.delay) + 1, self.delay, 5000)
        spread = int(self.opening * 1e6)
        return Scenario("streams", "", answers, True, self.streams, self.streams, spread, limit=int(seconds) * 2 + 20)


def with_streams(router: Router, rig: Rig, streams: int, idle: float) -> Point:
    """`idle`: cores that the router uses without requests."""
    plan = StreamPlan(streams)
    scenario, pids = plan.scenario, router.serving
    rig.set_answers(scenario.answers)
    before, watch = memory_bytes(pids), watch_beside(router, rig)
    load = rig.start_load(scenario, router.port, router.contender.api)
    time.sleep(plan.opening + 2 * plan.delay / 1e6)
    cpu, tokens = cpu_seconds(pids), rig.set_answers(scenario.answers)
    time.sleep(WINDOW)
    cpu, tokens = cpu_seconds(pids) - cpu, rig.set_answers(scenario.answers) - tokens
    memory = memory_bytes(pids) - before
    result = finish(load)
    _require(result, plan.scenario)
    figures = {"cpu_token": (cpu - idle * WINDOW) * 1e6 / tokens}
    figures |= {"token_p50": result.token_p50 / 1000, "token_p99": result.token_p99 / 1000}
    if streams >= FEW:
        figures["memory"] = memory / 1024 / streams
    return Point(x=streams, other=watch.other(), figures=figures)


def with_fleet(rig: Rig, x: int, workers: int, models: int) -> Point:
    """`x`: workers or models, whichever the curve is about."""
    with running(vllama(api=OLLAMA), rig, workers=workers, models=models) as router:
        watch = watch_beside(router, rig)
        figures = {"join": join(router, rig, workers) * 1000, **background(router)}
        figures["cpu_request"], _ = cpu_per_request(router, rig, figures["idle"] / 100)
        return Point(x=x, other=watch.other(), figures=figures)


def with_processes(rig: Rig, processes: int) -> Point:
    """Each process has as many connections as a single one."""
    with running(vllama(api=OLLAMA, processes=processes), rig) as router:
        watch = watch_beside(router, rig)
        scenario = replace(REQUESTS, connections=processes * REQUESTS.connections)
        cost, shares = cpu_per_request(router, rig, background(router)["idle"] / 100, scenario)
        figures = {"cpu_request": cost, "least": min(shares) * 100, "most": max(shares) * 100}
        return Point(x=processes, other=watch.other(), figures=figures)


def cpu_per_request(router: Router, rig: Rig, idle: float, scenario: Scenario = REQUESTS) -> tuple[float, list[float]]:
    """Return microseconds without what the router does anyway (`idle` cores), and each process's share of the work.

    The first load opens the connections to the workers.
    """
    rig.set_answers(scenario.answers)
    finish(rig.start_load(scenario, router.port, router.contender.api))
    pids = router.serving
    before, begin = [cpu_seconds([pid]) for pid in pids], time.monotonic()
    result = finish(rig.start_load(scenario, router.port, router.contender.api))
    used, seconds = [cpu_seconds([pid]) - was for pid, was in zip(pids, before, strict=True)], time.monotonic() - begin
    _require(result, scenario)
    return (sum(used) - idle * seconds) * 1e6 / result.done, [each / sum(used) for each in used]


def background(router: Router) -> dict[str, float]:
    """Return the CPU time of the router and of the registry without requests, in percent of a core."""
    serving, registry = router.serving, router.registry
    before = cpu_seconds(serving), cpu_seconds(registry)
    time.sleep(IDLE)
    after = cpu_seconds(serving), cpu_seconds(registry)
    return {"idle": (after[0] - before[0]) / IDLE * 100, "registry": (after[1] - before[1]) / IDLE * 100}


def join(router: Router, rig: Rig, workers: int) -> float:
    """Return the seconds from a further worker's registration until the router answers for its model."""
    body = Api(OLLAMA.path, {**OLLAMA.body, "model": model_name(workers, 1)}, {}).request(stream=False)
    assert router.state_dir is not None
    connection = http.client.HTTPConnection(LOOPBACK, router.port, timeout=5)
    rig.set_answers(Answers(1))
    with fleet(router.state_dir, rig.port, 1, 2, first=workers):
        begin = time.monotonic()
        while time.monotonic() - begin < JOIN_LIMIT:
            if status(connection, "POST", OLLAMA.path, body) == 200:
                connection.close()
                return time.monotonic() - begin
            time.sleep(0.001)
    raise CannotMeasure(f"a further worker did not join within {JOIN_LIMIT:.0f} s; see the router's log")


def _require(result: Load, scenario: Scenario) -> None:
    found = problem(scenario, result)
    if found:
        raise CannotMeasure(f"{found}; see the router's log")

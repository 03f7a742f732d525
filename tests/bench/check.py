"""Fail if the router needs more instructions per request or per token than the committed baseline.

    make bench-check                   # needs valgrind
    make bench-check ARGS=--update     # accept the present figures as the baseline

One router process runs under callgrind, with real sockets and all features on. Instructions do not depend on what else
the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from tests.bench.apis import OLLAMA, OPENAI, Api
from tests.bench.contenders import vllama
from tests.bench.instructions import Counter, command, installed
from tests.bench.programs import WORK, CannotMeasure, build
from tests.bench.regression import Baseline, verdict, without_idle
from tests.bench.rig import Rig, finish, rig
from tests.bench.running import Router, running
from tests.bench.scenarios import Answers, Scenario

BASELINE = Path(__file__).with_name("baseline.json")
IDLE = 5.0
"""Seconds without requests."""
TOKENS = 1000
WINDOWS = 7
"""Repetitions of each load, of which the median counts."""
REQUEST = Scenario("request", "", Answers(1), False, 1, 80)
DOCUMENT = Scenario("document", "", Answers(128, per_write=128), False, 1, 60)
ONE_TOKEN = Scenario("one token", "", Answers(1, per_write=0), True, 1, 1)
TOKEN = Scenario("token", "", Answers(1 + TOKENS, per_write=0), True, 1, 1)
ENVIRONMENT = {"PYTHONHASHSEED": "0", "VLLAMA_CONNECT_TIMEOUT": "30"}
"""Nothing depends on time: hashes are equal in all runs, and a slow connection does not count as a failure."""
START_LIMIT = 240.0
"""Seconds. A router starts ten times slower under callgrind."""


def count(work: Path = WORK) -> dict[str, int]:
    """Return the instructions of each figure. Raises CannotMeasure."""
    counted, idle = medians(work, OLLAMA, (REQUEST, DOCUMENT, ONE_TOKEN, TOKEN))
    figures = {
        "request with one token": round(counted["request"] / REQUEST.requests),
        "request with 128 tokens": round(counted["document"] / DOCUMENT.requests),
        "streamed token": per_token(counted),
        "second without requests": round(idle),
    }
    # A worker that is alone is not asked for token ids, which nobody could go on with.
    for name, api in (("Ollama", OLLAMA), ("OpenAI", OPENAI)):
        counted, _ = medians(work, api, (ONE_TOKEN, TOKEN), workers=2)
        figures[f"resumable token, {name}"] = per_token(counted)
    return figures


def medians(work: Path, api: Api, scenarios: Sequence[Scenario], *, workers: int = 1) -> tuple[dict[str, float], float]:
    """Return the instructions of each load by name, and those of a second without requests. Raises CannotMeasure."""
    folder = work / "check"
    for old in folder.glob("counts.*"):
        old.unlink()
    contender = vllama(api=api, prefix=command(folder), env=ENVIRONMENT)
    with (
        rig(build(work), folder, addresses=workers) as bench,
        running(contender, bench, workers=workers, limit=START_LIMIT) as router,
    ):
        (pid,) = router.serving
        for scenario in scenarios:
            load(router, bench, scenario)
        counter = Counter(pid, folder)
        counter.start()
        total, seconds = counter.during(lambda: time.sleep(IDLE))
        idle = total / seconds
        counted = {
            each.name: statistics.median(windows(counter, partial(load, router, bench, each), idle))
            for each in scenarios
        }
    return counted, idle


def per_token(counted: dict[str, float]) -> int:
    return round((counted["token"] - counted["one token"]) / TOKENS)


def windows(counter: Counter, work: Callable[[], None], idle: float) -> list[int]:
    return [without_idle(*counter.during(work), idle) for _ in range(WINDOWS)]


def load(router: Router, bench: Rig, scenario: Scenario) -> None:
    bench.set_answers(scenario.answers)
    result = finish(bench.start_load(scenario, router.port, router.contender.api))
    if result.done != scenario.requests or result.errors or result.refused:
        lost = f"{result.errors} lost connections, {result.refused} refusals"
        raise CannotMeasure(f"{result.done} of {scenario.requests} requests ended, {lost}; see the router's log")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("make bench-check", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the counted figures to baseline.json")
    update = parser.parse_args(arguments).update
    reason = skipped(read_baseline(), update=update)
    if reason:
        sys.stdout.write(f"bench-check: skipped; {reason}\n")
        return 0
    try:
        counted = count()
    except CannotMeasure as error:
        sys.stderr.write(f"bench-check: {error}\n")
        return 1
    lines, passed = verdict(read_baseline(), counted)
    sys.stdout.write("\n".join(lines) + "\n")
    if update:
        write_baseline(counted)
    elif not passed:
        sys.stdout.write(
            "bench-check: a figure is worse than the tolerance; make it cheaper, or accept it by --update\n"
        )
    return 0 if passed or update else 1


def skipped(baseline: Baseline, *, update: bool = False) -> str:
    """Return why nothing can be compared here, or ""."""
    if not installed():
        return "valgrind is not installed"
    if baseline.python != python_version() and not update:
        return f"the baseline is of Python {baseline.python}, and this is {python_version()}"
    return ""


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read_baseline() -> Baseline:
    return msgspec.json.decode(BASELINE.read_bytes(), type=Baseline)


def write_baseline(counted: dict[str, int]) -> None:
    updated = Baseline(python_version(), counted, read_baseline().tolerance)
    BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(updated), indent=2) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

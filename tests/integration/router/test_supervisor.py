"""The supervisor with real processes: restarts, permanent faults, and no process left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import is_alive, runs
from tests.support.until import until
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.process.status import RESTARTED

Serve = Any

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lifelines are Linux")


class Supervised:
    """A supervisor in its own process."""

    def __init__(self, folder: Path, number: int, plan: dict[str, Any]) -> None:
        self.out = folder / f"out-{number}"
        self.err = folder / f"err-{number}"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fleet.supervised", json.dumps(plan)],
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  it takes no locks
            )

    def wait_for_output(self, text: str) -> None:
        until(lambda: text in self.out.read_text(), 20, f"it says {text!r}")

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def send(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def wait(self, timeout: float = 60) -> int:
        return self.process.wait(timeout)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[Supervised] = []

    def start(children: list[tuple[str, str, dict[str, Any]]], **plan: Any) -> Supervised:
        running.append(Supervised(tmp_path, len(running), {"children": children, **plan}))
        return running[-1]

    yield start
    for supervised in running:
        if supervised.process.poll() is None:
            left = supervised.tree()
            supervised.process.kill()
            supervised.process.wait()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def told_of_restart(file: Path) -> bool:
    """True if the latest process knows that it replaces another."""
    return RESTARTED in psutil.Process(pids(file)[-1]).environ()


ROUTER = ("router", "router-0", {})
WORKER = ("worker", "w-0", {"models": ["m"]})


def test_the_supervisor_announces_readiness_and_stops_in_order_on_sigterm(serve: Serve) -> None:
    supervised = serve([ROUTER, WORKER])
    supervised.wait_for_output("all ready")
    assert "worker    w-0  ready after" in supervised.out.read_text()
    children = supervised.tree()
    assert len(children) == 2
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0
    assert not any(is_alive(child) for child in children)


def test_readiness_is_announced_with_what_routers_lack(serve: Serve) -> None:
    supervised = serve([ROUTER, WORKER], gaps=[["router-0", "does not answer"]])
    supervised.wait_for_output("all ready")
    assert supervised.out.read_text().splitlines()[-2:] == ["router    router-0  does not answer", "all ready"]


def test_a_restarted_worker_reports_its_loading_time_and_not_its_age(serve: Serve) -> None:
    supervised = serve([("worker", "w", {"relapse": 1.6})])
    supervised.wait_for_output("vLLM died")
    until(lambda: supervised.out.read_text().count("ready after") == 2, 5, "it is back")
    assert supervised.out.read_text().rstrip().endswith("w  ready after 0 s")


def test_a_killed_child_is_restarted_and_the_others_are_left_alone(serve: Serve, tmp_path: Path) -> None:
    routers, workers = tmp_path / "routers", tmp_path / "workers"
    supervised = serve([("router", "r", {"pids": str(routers)}), ("worker", "w", {"pids": str(workers)})])
    supervised.wait_for_output("all ready")
    assert not told_of_restart(routers)
    for killed in (1, 2, 3):
        os.kill(pids(routers)[-1], signal.SIGKILL)
        until(lambda: len(pids(routers)) == killed + 1, 10, "a new router")  # noqa: B023
        until(lambda: supervised.out.read_text().count("r  answers again") == killed, 10, "it says so")  # noqa: B023
        assert told_of_restart(routers)
    assert len(pids(workers)) == 1
    assert "was killed by SIGKILL; restarting it" in supervised.out.read_text()
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0


def test_a_child_that_cannot_start_stops_everything(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "pids"
    supervised = serve([("router", "r", {"pids": str(log)}), ("worker", "w", {"fail": 7, "pids": str(log)})])
    assert supervised.wait() == 1
    assert "w  could not start (exit code 7)" in supervised.out.read_text()
    assert supervised.err.read_text() == ""  # that is the child's to say
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


def test_routers_serve_while_the_registry_starts_and_workers_wait_for_it(serve: Serve, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    supervised = serve([WORKER, ROUTER], registry=str(registry))
    supervised.wait_for_output("serving")
    assert "w-0  loading" not in supervised.out.read_text()
    registry.write_text("")
    supervised.wait_for_output("all ready")
    assert "w-0  ready after" in supervised.out.read_text()


def test_a_registry_that_does_not_answer_stops_everything(serve: Serve, tmp_path: Path) -> None:
    registry, log = tmp_path / "registry", tmp_path / "pids"
    supervised = serve([("router", "r", {"pids": str(log)}), WORKER], registry=str(registry))
    supervised.wait_for_output("serving")
    registry.with_suffix(".new").write_text("no room for the registry")
    registry.with_suffix(".new").rename(registry)
    assert supervised.wait() == 1
    assert supervised.err.read_text() == "vllama: no room for the registry\n"
    assert not any(psutil.pid_exists(pid) for pid in pids(log))


def test_a_signal_while_the_registry_starts_stops_the_supervisor(serve: Serve, tmp_path: Path) -> None:
    supervised = serve([ROUTER, WORKER], registry=str(tmp_path / "registry"))
    supervised.wait_for_output("serving")
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0


def test_no_process_survives_a_killed_supervisor(serve: Serve, tmp_path: Path) -> None:
    supervised = serve([ROUTER, WORKER], state_dir=str(tmp_path / "state"))
    supervised.wait_for_output("all ready")
    children = supervised.tree()
    assert any(runs(child, "valkey-server") for child in children)
    supervised.process.kill()
    for child in children:
        until(lambda: not is_alive(child), 5, f"{child} is gone")  # noqa: B023


def test_children_get_the_grace_period_and_routers_stop_before_workers(serve: Serve, tmp_path: Path) -> None:
    routers, workers = tmp_path / "r", tmp_path / "w"
    supervised = serve(
        [("router", "r", {"drain": 1.0, "pids": str(routers)}), ("worker", "w", {"drain": 50, "pids": str(workers)})],
        grace=60.0,
    )
    supervised.wait_for_output("all ready")
    router, worker = psutil.Process(pids(routers)[0]), psutil.Process(pids(workers)[0])
    start = time.monotonic()
    supervised.send(signal.SIGTERM)
    until(lambda: not is_alive(router), 10, "the router is gone", interval=0.005)
    assert time.monotonic() - start >= 0.9
    assert is_alive(worker)
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0


@pytest.mark.parametrize("kind", ["router", "worker"])
@pytest.mark.parametrize(
    ("first", "hint", "second"),
    [
        (signal.SIGINT, "s; Ctrl-C again stops at once", signal.SIGINT),
        (signal.SIGTERM, "s; a second SIGTERM or Ctrl-C stops at once", signal.SIGTERM),
        (signal.SIGTERM, "s; a second SIGTERM or Ctrl-C stops at once", signal.SIGINT),
    ],
)
def test_a_second_signal_stops_the_supervisor_at_once(
    serve: Serve, kind: str, first: signal.Signals, hint: str, second: signal.Signals
) -> None:
    supervised = serve([(kind, "slow", {"drain": 50})], grace=60.0)
    supervised.wait_for_output("all ready")
    supervised.send(first)
    supervised.wait_for_output(hint)
    children = supervised.tree()
    start = time.monotonic()
    supervised.send(second)
    assert supervised.wait() == 0
    assert time.monotonic() - start < 30
    assert not any(is_alive(child) for child in children)


def test_a_child_that_ignores_its_signals_is_killed_after_the_grace(serve: Serve) -> None:
    supervised = serve([("worker", "deaf", {"stubborn": True})], grace=0.2)
    supervised.wait_for_output("all ready")
    children = supervised.tree()
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0
    assert not any(is_alive(child) for child in children)


def test_a_signal_while_a_worker_loads_stops_the_supervisor_at_once(serve: Serve) -> None:
    supervised = serve([ROUTER, ("worker", "w", {"silent": True})])
    supervised.wait_for_output("w  loading")
    supervised.send(signal.SIGINT)
    assert supervised.wait() == 0


def test_a_crashed_embedded_registry_is_restarted(serve: Serve, tmp_path: Path) -> None:
    supervised = serve([ROUTER], state_dir=str(tmp_path / "state"))
    supervised.wait_for_output("all ready")
    valkey = next(child for child in supervised.tree() if runs(child, "valkey-server"))
    valkey.kill()
    until(
        lambda: any(runs(child, "valkey-server") and child.pid != valkey.pid for child in supervised.tree()),
        10,
        "a new Valkey",
    )
    assert "registry  valkey  was ended by SIGKILL; starting it again\n" in supervised.out.read_text()


def test_a_second_supervisor_shares_the_firsts_registry_and_takes_it_over(serve: Serve, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    first = serve([ROUTER], state_dir=state)
    first.wait_for_output("all ready")
    second = serve([ROUTER], state_dir=state)
    second.wait_for_output("all ready")
    assert "run by another vllama serve" in second.out.read_text()
    assert not any(runs(child, "valkey-server") for child in second.tree())
    first.process.kill()
    second.wait_for_output("its owner has exited; running it here")
    until(lambda: any(runs(child, "valkey-server") for child in second.tree()), 10, "a Valkey of its own")
    second.send(signal.SIGTERM)
    assert second.wait() == 0


def test_a_hang_up_signal_reaches_the_routers_and_stops_nothing(serve: Serve, tmp_path: Path) -> None:
    hangups, workers = tmp_path / "hangups", tmp_path / "workers"
    routers = [("router", f"r-{number}", {"hangups": str(hangups)}) for number in range(3)]
    supervised = serve([*routers, ("worker", "w", {"hangups": str(workers)})])
    supervised.wait_for_output("all ready")
    supervised.send(signal.SIGHUP)
    supervised.wait_for_output("reloading")
    until(lambda: len(pids(hangups)) == 3, 10, "each router has its signal")
    assert len(set(pids(hangups))) == 3
    assert pids(workers) == []
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0


def test_a_hang_up_signal_stops_the_supervisor_if_its_terminal_is_gone(serve: Serve) -> None:
    supervised = serve([ROUTER], hung_up=True)
    supervised.wait_for_output("all ready")
    supervised.send(signal.SIGHUP)
    assert supervised.wait() == 0

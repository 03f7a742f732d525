"""Measure how long `vllama serve` without workers takes from its start to its first answer.

    make bench-start ARGS="--runs 20 --imports"

Each run starts the command with an empty state folder, its embedded registry included, and asks for /api/version until
the answer has status 200. The first run of each kind does not count: it may have to compile.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.import_times import by_package, outermost, total
from tests.bench.processes import cpu_seconds, descendants, start, stop
from tests.bench.programs import WORK, CannotMeasure
from tests.bench.report import spread
from tests.bench.rig import LOOPBACK, ROOT
from tests.bench.running import Watch
from tests.support.fleet.programs import VLLAMA, clean_environ
from tests.support.ports import free_ports

TARGET = 1.0
"""Seconds."""
LIMIT = 60.0
"""Seconds."""
EXTRA_RUNS = 2
"""Times the wanted runs that may be tried while runs are dropped."""
PAUSE = 0.002
"""Seconds between two attempts to connect."""
PROGRAMS = {"supervisor": "vllama_pool.router.cli.commands.serve", "router process": "vllama_pool.router.process"}
"""Modules that the processes of `vllama serve` import."""
LARGEST = 15
"""Imports that are listed."""


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "make bench-start", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="of each kind (default: %(default)s)")
    parser.add_argument("--processes", default="1,2", help="router processes, a kind each (default: %(default)s)")
    parser.add_argument(
        "--most-other", type=float, default=0.3, help="cores of other programs above which a run is dropped"
    )
    parser.add_argument("--imports", action="store_true", help="list the imports that take the most time instead")
    return parser.parse_args(arguments)


@dataclass(frozen=True, slots=True)
class Start:
    seconds: float
    cpu: float
    """Seconds of all processes together."""
    other: float
    """Cores that other programs used meanwhile."""


def first_answer(folder: Path, processes: int) -> Start:
    """Start the router and wait for its first answer. Raises CannotMeasure."""
    port = free_ports()
    command = [VLLAMA, "serve", "--host", LOOPBACK, "--port", str(port), "--processes", str(processes)]
    env = {**environment(), "VLLAMA_STATE_DIR": str(folder / "state")}
    with (folder / "log").open("wb") as log:
        before = Watch([])
        begin = time.monotonic()
        process = start(command, None, env=env, stdout=log)
        try:
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > begin + LIMIT:
                    raise CannotMeasure(f"vllama serve does not answer; its log:\n{(folder / 'log').read_text()}")
                time.sleep(PAUSE)
            seconds = time.monotonic() - begin
            ours = [process.pid, *descendants(process.pid)]
            return Start(seconds, cpu_seconds(ours), before.other(ours))
        finally:
            stop(process)


def environment() -> dict[str, str]:
    """Bytecode is cached, as after an installation."""
    return {name: value for name, value in clean_environ().items() if name != "PYTHONDONTWRITEBYTECODE"}


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=LIMIT)
    try:
        connection.request("GET", "/api/version")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def measure(choice: argparse.Namespace, processes: int) -> str:
    """Return one line about the starts with so many router processes."""
    counted: list[Start] = []
    tried = 0
    _one(processes)
    while len(counted) < choice.runs and tried < choice.runs * EXTRA_RUNS:
        tried += 1
        one = _one(processes)
        counted += [one] if one.other <= choice.most_other else []
    return summary(processes, counted, tried - len(counted))


def _one(processes: int) -> Start:
    with tempfile.TemporaryDirectory(dir=WORK, prefix="start-") as folder:
        return first_answer(Path(folder), processes)


def summary(processes: int, starts: Sequence[Start], dropped: int) -> str:
    noun = "process" if processes == 1 else "processes"
    if not starts:
        return f"{processes} {noun}: none of {dropped} runs counts; other programs used too much"
    seconds = [one.seconds for one in starts]
    within = "within" if statistics.median(seconds) <= TARGET else "NOT within"
    cpu, most = spread([one.cpu for one in starts]), max(one.other for one in starts)
    return (
        f"{processes} {noun}: {spread(seconds)} s, {within} {TARGET:g} s; {cpu} s of CPU; {len(starts)} runs, "
        f"{dropped} dropped; other programs used at most {most:.2f} cores"
    )


def imports(module: str) -> str:
    """Return what `python -X importtime` prints for a module."""
    command = [sys.executable, "-X", "importtime", "-c", f"import gc; gc.disable(); import {module}"]
    for _ in range(2):  # the first may have to compile
        result = subprocess.run(command, env={**environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if result.returncode != 0:
        raise CannotMeasure(f"{module} cannot be imported: {result.stderr[-500:]}")
    return result.stderr


def import_lines(name: str, text: str) -> list[str]:
    """Return the largest imports as lines, in milliseconds."""
    lines = ["", f"{name}: {total(text) / 1000:.0f} ms of imports", "of each package's own modules, ms:"]
    lines += [f"  {time_ / 1000:7.1f}  {package}" for package, time_ in by_package(text).most_common(LARGEST)]
    lines += ["of modules that ours import, with all that they import, ms:"]
    return lines + [f"  {time_ / 1000:7.1f}  {module}" for module, time_ in outermost(text).most_common(LARGEST)]


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    choice = options(arguments)
    WORK.mkdir(exist_ok=True)
    try:
        if choice.imports:
            for name, module in PROGRAMS.items():
                say(*import_lines(name, imports(module)))
            return 0
        for processes in map(int, choice.processes.split(",")):
            say(measure(choice, processes))
    except CannotMeasure as error:
        sys.stderr.write(f"bench-start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Counts the instructions of a router under callgrind, in windows between two dumps."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.programs import CannotMeasure

DUMP_LIMIT = 30.0
"""Seconds."""
_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


def installed() -> bool:
    return bool(shutil.which("valgrind") and shutil.which("vgdb"))


def command(folder: Path) -> tuple[str, ...]:
    """Return what precedes the router's command. Nothing is counted before `Counter.start`, so the start is quick."""
    return (
        *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
        *("--trace-children=yes", "--trace-children-skip=*valkey*", f"--callgrind-out-file={folder}/counts.%p"),
    )


@dataclass(slots=True)
class Counter:
    """Instructions of one process."""

    pid: int
    folder: Path
    _dumps: int = field(default=0)

    def start(self) -> None:
        self._order("instrumentation", "on")

    def during(self, work: Callable[[], object]) -> tuple[int, float]:
        """Return the instructions between the dumps before and after some work, and the seconds between them."""
        self._dump()
        begin = time.monotonic()
        work()
        total = self._dump()
        return total, time.monotonic() - begin

    def _dump(self) -> int:
        """Return the instructions since the last dump, as soon as the counts are written. Raises CannotMeasure."""
        self._order("dump")
        self._dumps += 1
        path = self.folder / f"counts.{self.pid}.{self._dumps}"
        deadline = time.monotonic() + DUMP_LIMIT
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                total = _TOTAL.search(path.read_text())
                if total:
                    return int(total[1])
            time.sleep(0.01)
        raise CannotMeasure(f"valgrind wrote no counts to {path}; see the router's log beside it")

    def _order(self, *words: str) -> None:
        result = subprocess.run(["vgdb", f"--pid={self.pid}", *words], capture_output=True, text=True)
        if result.returncode != 0:
            raise CannotMeasure(f"valgrind does not take orders; see vgdb's message: {result.stderr.strip()}")

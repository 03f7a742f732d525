"""Counts where a router process spends its CPU time. Python imports this module when it starts with its folder in
PYTHONPATH.

Nothing is counted before SIGUSR1, which also forgets earlier counts. SIGUSR2 writes them as JSON to BENCH_SAMPLES:
lists of a file, a function, the C function that it calls or "", and the number of samples.
"""

from __future__ import annotations

import dis
import json
import linecache
import os
import re
import signal
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

INTERVAL = 0.004
"""Seconds of CPU time between two samples."""
ENTRY_POINTS = {"vllama_pool.router.start", "vllama_pool.router.process"}
"""Of a router process, also in older checkouts."""
LOOP = "<event loop>"
"""Stands for the file of uvloop's code and of its system calls, which have no frame."""
_RESUME = dis.opmap["RESUME"]


def in_loop(frame: FrameType) -> bool:
    """Return True for a sample of the event loop itself.

    Python runs the handler when it next executes Python code. For the loop that is the first instruction of the
    callback that follows.
    """
    code, caller = frame.f_code, frame.f_back
    called_by_loop = caller is None or caller.f_code.co_filename.endswith("/asyncio/runners.py")
    return called_by_loop and code.co_code[frame.f_lasti] == _RESUME


def callee(code: CodeType, instruction: int) -> str:
    """Return the name of the C function whose call is this instruction, or ""."""
    if not dis.opname[code.co_code[instruction]].startswith(("CALL", "PRECALL")):
        return ""
    line, _, column, _ = next(islice(code.co_positions(), instruction // 2, None))
    text = linecache.getline(code.co_filename, line or 0)[column or 0 :]
    return re.split(r"[^\w.]", text, maxsplit=1)[0].rpartition(".")[2]


def arm(path: Path) -> None:
    counts: Counter[tuple[CodeType | None, int]] = Counter()

    def take(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            counts[(None, 0) if in_loop(frame) else (frame.f_code, frame.f_lasti)] += 1

    def begin(_: int, frame: FrameType | None) -> None:
        counts.clear()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def end(_: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps([(*place(*at), count) for at, count in counts.items()]))
        partial.rename(path)

    signal.signal(signal.SIGPROF, take)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


def place(code: CodeType | None, instruction: int) -> tuple[str, str, str]:
    return (code.co_filename, code.co_name, callee(code, instruction)) if code is not None else (LOOP, "", "")


if ENTRY_POINTS.intersection(sys.orig_argv):
    arm(Path(os.environ["BENCH_SAMPLES"]))

"""A scripted child of the supervisor, a program with one JSON object as its argument:

pids      file to which it appends its pid
fail      exit with this code instead of becoming ready
silent    never become ready
drain     seconds from SIGTERM to exit (0)
relapse   seconds until its server restarts and is ready again
stubborn  ignore SIGTERM
hangups   file to which it appends its pid on SIGHUP
models    served names
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from vllama_pool.workers.process.status import ChildStatus, StatusPipe


def main(script: dict[str, Any]) -> None:
    status = StatusPipe.from_environment(os.environ)
    leaving: list[float] = []

    def leave(number: int, frame: object) -> None:
        status.send(ChildStatus("draining"))
        leaving.append(time.monotonic() + script.get("drain", 0))

    signal.signal(signal.SIGTERM, signal.SIG_IGN if script.get("stubborn") else leave)
    if "pids" in script:
        append_pid(script["pids"])
    if "hangups" in script:
        signal.signal(signal.SIGHUP, lambda number, frame: append_pid(script["hangups"]))
    status.send(ChildStatus("starting", "loading"))
    if "fail" in script:
        sys.exit(script["fail"])
    if not script.get("silent"):
        status.send(ChildStatus("ready", models=tuple(script.get("models", ()))))
    if "relapse" in script:
        time.sleep(script["relapse"])
        status.send(ChildStatus("restarting", "vLLM died"))
        status.send(ChildStatus("ready"))
    end = time.monotonic() + 60
    while time.monotonic() < (leaving[0] if leaving else end):
        time.sleep(0.01)


def append_pid(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The supervisor with scripted children, as a program that tests can kill.

    python -m tests.support.fleet.supervised \
        '{"children": [["router", "router-0", {…}], …], "grace": 2, "state_dir": …}'

Without a state directory there is no registry, but "registry" may name a file that says when it answers, or why not.
"hung_up" tells whether the terminal is gone. "gaps" is what the check of the routers finds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.until import auntil
from vllama_pool.router.supervisor.child import ChildKind, ChildSpec
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.readiness import Gap
from vllama_pool.router.supervisor.registry_server import EmbeddedRegistry, RegistryFailed, RegistryServer
from vllama_pool.router.supervisor.supervisor import Supervisor
from vllama_pool.workers.process.backoff import wait_exponential


class NoRegistry:
    async def start(self) -> None:
        pass

    async def wait_ready(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class ScriptedRegistry(NoRegistry):
    def __init__(self, file: Path) -> None:
        self._file = file

    async def wait_ready(self) -> None:
        await auntil(self._file.exists, 30)
        if problem := self._file.read_text():
            raise RegistryFailed(problem)


def registry_of(plan: dict[str, Any], console: Console) -> RegistryServer:
    if "state_dir" in plan:
        return EmbeddedRegistry(Path(plan["state_dir"]), console)
    return ScriptedRegistry(Path(plan["registry"])) if "registry" in plan else NoRegistry()


def spec(kind: str, name: str, script: dict[str, Any]) -> ChildSpec:
    return ChildSpec(
        ChildKind(kind),
        name,
        (sys.executable, "-m", "tests.support.fleet.scripted_child", json.dumps(script)),
        dict(os.environ),
    )


async def found(gaps: list[list[str]]) -> list[Gap]:
    return [Gap(*gap) for gap in gaps]


def main(plan: dict[str, Any]) -> int:
    console = Console(sys.stdout, sys.stderr)
    supervisor = Supervisor(
        specs=[spec(*child) for child in plan["children"]],
        registry=registry_of(plan, console),
        on_serving=lambda: console.note("serving"),
        console=console,
        grace=plan.get("grace", 2.0),
        on_ready=lambda children: console.note("all ready"),
        wait_routed=lambda workers: found(plan.get("gaps", [])),
        hung_up=lambda: plan.get("hung_up", False),
        reload_note="reloading",
        kill_after=1.0,
        restart_wait=wait_exponential(multiplier=0.05, max=0.2),
    )
    return asyncio.run(supervisor.run())


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

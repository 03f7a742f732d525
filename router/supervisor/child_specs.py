"""Command lines and environments of the processes of `vllama serve`. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from vllama_pool.router.instance import LISTEN_FD, PROCESS, RouterInstance
from vllama_pool.router.last_table import LAST_TABLE_FD
from vllama_pool.router.supervisor.child import ChildKind, ChildSpec
from vllama_pool.workers.agent.command_line import WorkerSpec

PYTHON = (sys.executable, "-P")
"""-P: children do not import modules from the current directory."""
ROUTER_SECRETS = ("VLLAMA_API_KEYS", "VLLAMA_API_KEYS_FILE", "VLLAMA_ADMIN_KEY", "VLLAMA_ADMIN_KEY_FILE")
"""Removed from the environment of workers, which may run a model's own code."""


def agent_child_spec(spec: WorkerSpec, environ: Mapping[str, str]) -> ChildSpec:
    """Return the `vllama worker` command for a worker."""
    env = {name: value for name, value in environ.items() if name not in ROUTER_SECRETS}
    if spec.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    command = [*PYTHON, "-m", "vllama_pool.router.cli.main", "worker", "--model", spec.model, "--name", spec.name]
    command += ["--port", str(spec.port), "--engine", spec.engine, *(f"--tag={tag}" for tag in spec.tags)]
    return ChildSpec(ChildKind.WORKER, spec.name, (*command, "--", *spec.flags), env)


def router_child_specs(
    instances: Sequence[RouterInstance], listening: int, environ: Mapping[str, str], last_table: int | None = None
) -> list[ChildSpec]:
    """Return the router processes, which share the descriptors of the listening socket and of the last table."""
    argv = (*PYTHON, "-m", "vllama_pool.router.start")
    memory = {LAST_TABLE_FD: str(last_table)} if last_table is not None else {}
    return [
        ChildSpec(
            ChildKind.ROUTER,
            f"router-{instance.index}",
            argv,
            {**environ, LISTEN_FD: str(listening), PROCESS: str(instance), **memory},
            (listening,) if last_table is None else (listening, last_table),
        )
        for instance in instances
    ]

"""Checks of `vllama serve` before it starts a process, so that problems show before a model spends a minute loading."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from vllama_pool.workers.agent.command_line import CannotStart, WorkerSpec, check_bound, check_spec, find_program
from vllama_pool.workers.registry.keys import check_worker_id


class CannotLaunch(Exception):
    """The message is one line with the remedy."""


def check_worker(spec: WorkerSpec) -> None:
    """Check model, name and flags. vLLM checks names on a model hub. Raises CannotLaunch."""
    if not spec.model:
        raise CannotLaunch("--model is empty; give a folder, or a name such as Qwen/Qwen3-8B")
    try:
        check_worker_id(spec.name)
        check_spec(spec)
    except (CannotStart, ValueError) as error:
        raise CannotLaunch(str(error)) from error


def check_machine(engine: str, host: str) -> None:
    """Check that the engine's program and the workers' address exist. Raises CannotLaunch."""
    try:
        find_program(engine, os.environ)
        check_bound(host)
    except CannotStart as error:
        raise CannotLaunch(str(error)) from error


def check_ports(specs: Sequence[WorkerSpec], router_port: int, free: Callable[[int], bool]) -> None:
    """Raises CannotLaunch for a worker's port that is in use."""
    for spec in specs:
        if spec.port is not None and (spec.port == router_port or not free(spec.port)):
            raise CannotLaunch(
                f"port {spec.port} for worker {spec.name} is in use; choose other ports: --vllm-port PORT"
            )

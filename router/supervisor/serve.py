"""`vllama serve`: check settings and plan, then run the supervisor."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.routing import table
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.config.startup_checks import startup_problem
from vllama_pool.router.supervisor.child import Child
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.plan import (
    CannotLaunch,
    WorkerGroup,
    check_model,
    check_ports,
    listen,
    plan_groups,
    router_specs,
    try_commands,
    url,
    worker_spec,
)
from vllama_pool.router.supervisor.supervisor import EmbeddedRegistry, ExternalRegistry, RegistryServer, Supervisor
from vllama_pool.workers.agent.command_line import CannotStart, check_bound, find_program, is_free


@dataclass(frozen=True, slots=True)
class WorkerGroups:
    """The workers requested on the command line."""

    groups: Sequence[WorkerGroup]
    first_port: int
    host: str
    """The address on which vLLM listens."""


def serve(settings: RouterSettings, workers: WorkerGroups, console: Console) -> int:
    """Run routers and workers until a signal. Return the exit code.

    Raises CannotLaunch or RoutingError before anything is started.
    """
    problem = startup_problem(settings)
    if problem:
        raise CannotLaunch(problem)
    if settings.routing_file:
        table.load(settings.routing_file)
    plans = plan_groups(workers.groups, first_port=workers.first_port, host=socket.gethostname())
    for plan in plans:
        check_model(plan)
    for engine in sorted({plan.engine for plan in plans}):
        check_machine(engine, workers.host)
    configure_logging(settings.log_level)
    listening = listen(settings.host, settings.port)
    base_url = url(settings.host, listening.getsockname()[1])
    try:
        check_ports(plans, listening.getsockname()[1], lambda port: is_free(workers.host, port))
        environ = dict(os.environ)
        keyed = bool(settings.api_keys) and not settings.allow_anonymous
        where = "listening on every address" if settings.host in ("0.0.0.0", "::") else "listening"
        processes = f" ({settings.processes} processes)" if settings.processes > 1 else ""

        def ready(children: Sequence[Child]) -> None:
            served = [name for child in children if child.status for name in child.status.models]
            console.note("ready. Try:")
            for command in try_commands(base_url, served, program_name(), keyed=keyed):
                console.note(f"  {command}")

        supervisor = Supervisor(
            specs=[
                *router_specs(settings.processes, listening.fileno(), environ),
                *(worker_spec(plan, environ) for plan in plans),
            ],
            store=store(settings.registry, console),
            console=console,
            grace=settings.grace,
            on_serving=lambda: console.line("router", base_url, f"{where}{processes}"),
            on_ready=ready,
            on_drain=listening.close,
        )
        return asyncio.run(supervisor.run())
    finally:
        listening.close()


def store(registry: RegistrySettings, console: Console) -> RegistryServer:
    if registry.redis_url is None:
        return EmbeddedRegistry(registry.state_dir, console)
    return ExternalRegistry(registry.redis_url, re.sub(r"//[^/@]*@", "//", registry.redis_url), console)


def check_machine(engine: str, host: str) -> None:
    """Check that the engine's program and the listening address exist. Raises CannotLaunch."""
    try:
        find_program(engine, os.environ)
        check_bound(host)
    except CannotStart as error:
        raise CannotLaunch(str(error)) from error


def program_name() -> str:
    """Return the command that runs this program from the current directory."""
    if shutil.which("vllama"):
        return "vllama"
    path = Path(sys.executable).parent / "vllama"
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

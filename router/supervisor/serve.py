"""`vllama serve`: check settings and workers, then run the supervisor."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from vllama_pool.config.log_config import configure_logging
from vllama_pool.config.routing import table
from vllama_pool.config.routing.key_checks import check_keys
from vllama_pool.config.routing.queue_checks import unable_to_wait
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.config.startup_checks import startup_problem
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.last_table import make_memory
from vllama_pool.router.supervisor.checks import CannotLaunch, check_machine, check_ports, check_worker
from vllama_pool.router.supervisor.child import Child
from vllama_pool.router.supervisor.child_specs import agent_child_spec, router_child_specs
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.listening_socket import close_gently, listen, url
from vllama_pool.router.supervisor.readiness import wait_routed
from vllama_pool.router.supervisor.registry_server import EmbeddedRegistry, ExternalRegistry, RegistryServer
from vllama_pool.router.supervisor.supervisor import Supervisor
from vllama_pool.router.supervisor.terminal import hang_up_check
from vllama_pool.router.supervisor.worker_specs import WorkerGroup, expand_groups
from vllama_pool.router.telemetry.report_exchange import ask_processes
from vllama_pool.router.telemetry.routing_state import ROUTING, RoutingState
from vllama_pool.workers.agent.command_line import is_free
from vllama_pool.workers.registry.view_file import view_file


def serve(
    settings: RouterSettings,
    groups: Sequence[WorkerGroup],
    console: Console,
    *,
    first_worker_port: int,
    worker_host: str,
) -> int:
    """Run routers and workers until a signal. Return the exit code.

    `worker_host` is the address on which vLLM listens. Raises CannotLaunch or RoutingError before anything is started.
    """
    routing = table.load(settings.routing_file) if settings.routing_file else table.RoutingTable()
    file_has_keys = bool(routing.entries.keys)
    problem = startup_problem(settings, file_has_keys=file_has_keys)
    if problem:
        raise CannotLaunch(problem)
    check_keys(routing, settings.api_keys, required=False)
    for warning in unable_to_wait(routing, settings.max_queue):
        console.error(f"warning: {warning}")
    workers = expand_groups(groups, first_port=first_worker_port, host=socket.gethostname())
    for worker in workers:
        check_worker(worker)
    for engine in sorted({worker.engine for worker in workers}):
        check_machine(engine, worker_host)
    configure_logging(settings.log_level)
    listening = listen(settings.host, settings.port)
    base_url = url(settings.host, listening.getsockname()[1])
    try:
        check_ports(workers, listening.getsockname()[1], lambda port: is_free(worker_host, port))
        environ = dict(os.environ)
        keyed = (bool(settings.api_keys) or file_has_keys) and not settings.allow_anonymous
        where = "listening on every address" if settings.host in ("0.0.0.0", "::") else "listening"
        processes = f" ({settings.processes} processes)" if settings.processes > 1 else ""

        def ready(children: Sequence[Child]) -> None:
            served = [name for child in children if child.status for name in child.status.models]
            console.note("ready. Try:")
            for command in example_commands(base_url, served, program_name(), keyed=keyed):
                console.note(f"  {command}")

        instances = RouterInstance.new_family(settings.processes)
        supervisor = Supervisor(
            specs=[
                *router_child_specs(instances, listening.fileno(), environ, make_memory()),
                *(agent_child_spec(worker, environ) for worker in workers),
            ],
            registry=registry_server(settings.registry, console),
            console=console,
            grace=settings.grace,
            on_serving=lambda: console.line("router", base_url, f"{where}{processes}"),
            on_ready=ready,
            wait_routed=partial(wait_routed, len(instances), partial(ask_routers, instances)),
            hung_up=hang_up_check(),
            reload_note=reload_note(settings.routing_file),
            close_listener=partial(close_gently, listening),
            drain_delay=settings.drain_delay,
        )
        return asyncio.run(supervisor.run())
    finally:
        listening.close()


async def ask_routers(instances: Sequence[RouterInstance]) -> Mapping[int, RoutingState]:
    return await ask_processes(instances[0], range(len(instances)), ROUTING, RoutingState)


def reload_note(file: Path | None) -> str:
    """Return the line for a SIGHUP."""
    return f"reloading {file}" if file else "nothing to reload: no routing file is set (--routing FILE)"


def registry_server(settings: RegistrySettings, console: Console) -> RegistryServer:
    if settings.redis_url is None:
        return EmbeddedRegistry(settings.state_dir, console)
    file = view_file(settings)
    return ExternalRegistry(
        settings.redis_url,
        settings.fleet,
        console,
        patience=settings.redis_wait,
        has_view=lambda: file is not None and file.load() is not None,
    )


def example_commands(base_url: str, models: Sequence[str], vllama: str, *, keyed: bool = False) -> list[str]:
    """Return three commands to try first. `keyed`: requests need an API key."""
    curl = "curl -H 'Authorization: Bearer KEY'" if keyed else "curl"
    ps = f"{vllama} ps" if base_url == "http://127.0.0.1:11434" else f"{vllama} ps --url {base_url}"
    if not models:
        return [f"{vllama} worker --model MODEL", f"{curl} {base_url}/api/tags", ps]
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "What is 2+2?"}}]}}'
    return [f"{curl} {base_url}/api/chat -d '{body}'", f"{curl} {base_url}/api/tags", ps]


def program_name() -> str:
    """Return the command that runs this program from the current directory."""
    if shutil.which("vllama"):
        return "vllama"
    path = Path(sys.executable).parent / "vllama"
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

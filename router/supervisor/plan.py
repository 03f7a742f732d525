"""Plans and checks what `vllama serve` will start. Nothing here starts a process.

Problems are found here, before a model spends a minute loading.
"""

from __future__ import annotations

import errno
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vllama_pool.router.instance import LISTEN_FD, PROCESS, RouterInstance
from vllama_pool.router.supervisor.child import ChildKind, ChildSpec
from vllama_pool.workers.agent.command_line import AgentSpec, CannotStart, check_spec, worker_id
from vllama_pool.workers.registry.keys import check_worker_id

PYTHON = (sys.executable, "-P")
"""-P: children do not import modules from the current directory."""
ROUTERS_OWN = ("VLLAMA_API_KEYS", "VLLAMA_API_KEYS_FILE", "VLLAMA_ADMIN_KEY", "VLLAMA_ADMIN_KEY_FILE")
"""Secrets that are removed from the environment of workers, which may run a model's own code."""
BACKLOG = 2048
"""The listening socket's queue of connections to accept."""


class CannotLaunch(Exception):
    """The plan is impossible. The text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One planned worker: an agent and its vLLM."""

    name: str
    model: str
    port: int
    """vLLM's port."""
    args: tuple[str, ...] = ()
    """Further vLLM flags."""
    gpus: tuple[str, ...] = ()
    """For CUDA_VISIBLE_DEVICES; empty leaves the variable unchanged."""
    engine: str = "vllm"


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Models whose workers share options and vLLM flags."""

    models: Sequence[str]
    names: Sequence[str] = ()
    """One for each model, or none."""
    replicas: int = 1
    gpus: Sequence[str] = ()
    args: Sequence[str] = ()
    """Further vLLM flags."""
    engine: str = "vllm"


def plan_groups(groups: Sequence[WorkerGroup], *, first_port: int = 8100, host: str = "") -> list[WorkerPlan]:
    """Plan the workers of all groups, on consecutive ports. Raises CannotLaunch."""
    plans: list[WorkerPlan] = []
    for group in groups:
        plans += plan_workers(group, first_port=first_port + len(plans), host=host)
    names = [plan.name for plan in plans]
    double = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if double is not None:
        raise CannotLaunch(f"two workers are named '{double}'; give each a name of its own with --name")
    return plans


def plan_workers(group: WorkerGroup, *, first_port: int = 8100, host: str = "") -> list[WorkerPlan]:
    """Plan `replicas` workers for each model, on consecutive ports, with the GPUs shared evenly.

    `names` become the workers' ids; without names, an id is made of model, `host` (this machine's name) and port.
    Raises CannotLaunch.
    """
    models, names = group.models, group.names
    if names and len(names) != len(models):
        raise CannotLaunch(
            f"{len(names)} --name for {len(models)} --model; give one for each model, in the same order, or none"
        )
    count = len(models) * group.replicas
    if first_port + count - 1 > 65535:
        raise CannotLaunch(f"{count} workers from port {first_port} on go beyond 65535; choose a lower --vllm-port")
    devices = deal(group.gpus, count)
    plans: list[WorkerPlan] = []
    for number, model in enumerate(models):
        for replica in range(group.replicas):
            port = first_port + len(plans)
            if not names:
                name = worker_id(AgentSpec(model=model), host, port)
            else:
                name = names[number] if group.replicas == 1 else f"{names[number]}-{replica}"
            plans.append(WorkerPlan(name, model, port, tuple(group.args), devices[len(plans)], group.engine))
    return plans


def deal(gpus: Sequence[str], workers: int) -> list[tuple[str, ...]]:
    """Assign each worker the same number of neighbouring GPUs. Raises CannotLaunch if the number does not divide."""
    if not gpus or not workers:
        return [()] * workers
    share, rest = divmod(len(gpus), workers)
    if rest or not share:
        raise CannotLaunch(
            f"{len(gpus)} GPUs cannot be shared by {workers} workers; give --gpus a multiple of {workers}"
        )
    return [tuple(gpus[index * share : (index + 1) * share]) for index in range(workers)]


def check_model(plan: WorkerPlan) -> None:
    """Check model, name and flags. Raises CannotLaunch.

    A name such as "org/name" may be on a model hub; vLLM checks that itself.
    """
    if not plan.model:
        raise CannotLaunch("--model is empty; give a folder, or a name such as Qwen/Qwen3-8B")
    try:
        check_worker_id(plan.name)
        check_spec(AgentSpec(model=plan.model, flags=plan.args, engine=plan.engine))
    except (CannotStart, ValueError) as error:
        raise CannotLaunch(str(error)) from error


def worker_spec(plan: WorkerPlan, environ: Mapping[str, str]) -> ChildSpec:
    """Return how to start a worker's agent."""
    env = {name: value for name, value in environ.items() if name not in ROUTERS_OWN}
    if plan.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(plan.gpus)
    command = [*PYTHON, "-m", "vllama_pool.router.cli.main", "worker", "--model", plan.model, "--name", plan.name]
    command += ["--port", str(plan.port), "--engine", plan.engine]
    return ChildSpec(ChildKind.WORKER, plan.name, (*command, "--", *plan.args), env)


def router_specs(processes: int, listening: int, environ: Mapping[str, str]) -> list[ChildSpec]:
    """Return how to start the router processes, which share one listening socket."""
    argv, family = (*PYTHON, "-m", "vllama_pool.router.process"), secrets.token_hex(16)
    return [
        ChildSpec(
            ChildKind.ROUTER,
            f"router-{index}",
            argv,
            {**environ, LISTEN_FD: str(listening), PROCESS: str(RouterInstance(index, processes, family))},
            (listening,),
        )
        for index in range(processes)
    ]


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises CannotLaunch, for example if the port is in use."""
    where = url(host, port).removeprefix("http://")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotLaunch(f"cannot listen on {where}: {error.strerror or error}; choose another --host") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotLaunch(_why_not(error, where, port)) from error
    sock.setblocking(False)
    return sock


def _why_not(error: OSError, where: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{where} is in use, perhaps by Ollama or another vllama; stop that one, "
                f"or choose another port: --port {port + 1}"
            )
        case errno.EACCES:
            return f"not allowed to listen on {where}; choose a port above 1023: --port 11434"
        case errno.EADDRNOTAVAIL:
            return f"{where} is not an address of this machine; choose another --host"
    return f"cannot listen on {where}: {error.strerror}; choose another --host or --port"


def check_ports(plans: Sequence[WorkerPlan], router_port: int, free: Callable[[int], bool]) -> None:
    """Check that the workers' ports are free. Raises CannotLaunch."""
    for plan in plans:
        if plan.port == router_port or not free(plan.port):
            raise CannotLaunch(
                f"port {plan.port} for worker {plan.name} is in use; choose other ports: --vllm-port PORT"
            )


def url(host: str, port: int) -> str:
    """Return the URL at which clients on this machine reach a router that listens on `host` and `port`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    name = reachable.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def try_commands(base_url: str, models: Sequence[str], vllama: str, *, keyed: bool = False) -> list[str]:
    """Return three commands to try first. `keyed`: requests need an API key."""
    curl = "curl -H 'Authorization: Bearer KEY'" if keyed else "curl"
    show = f"{vllama} ps" if base_url == "http://127.0.0.1:11434" else f"{vllama} ps --url {base_url}"
    if not models:
        return [f"{vllama} worker --model MODEL", f"{curl} {base_url}/api/tags", show]
    ask = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "What is 2+2?"}}]}}'
    return [f"{curl} {base_url}/api/chat -d '{ask}'", f"{curl} {base_url}/api/tags", show]

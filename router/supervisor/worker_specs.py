"""Expand the models and options of `vllama serve` to one WorkerSpec per worker. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.workers.agent.command_line import WorkerSpec, worker_id


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Models whose workers share the options between two `--and`."""

    models: Sequence[str]
    names: Sequence[str] = ()
    """One for each model, or none."""
    replicas: int = 1
    gpus: Sequence[str] = ()
    flags: Sequence[str] = ()
    engine: str = "vllm"
    tags: Sequence[str] = ()


def expand_groups(groups: Sequence[WorkerGroup], *, first_port: int = 8100, host: str = "") -> list[WorkerSpec]:
    """Return the workers of all groups, on consecutive ports. Raises CannotLaunch."""
    specs: list[WorkerSpec] = []
    for group in groups:
        specs += expand_group(group, first_port=first_port + len(specs), host=host)
    names = [spec.name for spec in specs]
    duplicate = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if duplicate is not None:
        raise CannotLaunch(f"two workers are named '{duplicate}'; give each a name of its own with --name")
    return specs


def expand_group(group: WorkerGroup, *, first_port: int = 8100, host: str = "") -> list[WorkerSpec]:
    """Return `replicas` workers for each model. Raises CannotLaunch.

    `names` become the workers' ids; without names, an id is made of model, `host` (this machine's name) and port.
    """
    models, names = group.models, group.names
    if names and len(names) != len(models):
        raise CannotLaunch(
            f"{len(names)} --name for {len(models)} --model; give one for each model, in the same order, or none"
        )
    count = len(models) * group.replicas
    if first_port + count - 1 > 65535:
        raise CannotLaunch(f"{count} workers from port {first_port} on go beyond 65535; choose a lower --vllm-port")
    gpus = share_gpus(group.gpus, count)
    specs: list[WorkerSpec] = []
    for number, model in enumerate(models):
        for replica in range(group.replicas):
            port = first_port + len(specs)
            if not names:
                name = worker_id(WorkerSpec(model=model), host, port)
            else:
                name = names[number] if group.replicas == 1 else f"{names[number]}-{replica}"
            spec = WorkerSpec(model, name, port, tuple(group.flags), engine=group.engine, tags=tuple(group.tags))
            specs.append(replace(spec, gpus=gpus[len(specs)]))
    return specs


def share_gpus(gpus: Sequence[str], workers: int) -> list[tuple[str, ...]]:
    """Assign each worker the same number of neighbouring GPUs. Raises CannotLaunch if the number does not divide."""
    if not gpus or not workers:
        return [()] * workers
    share, rest = divmod(len(gpus), workers)
    if rest or not share:
        raise CannotLaunch(
            f"{len(gpus)} GPUs cannot be shared by {workers} workers; give --gpus a multiple of {workers}"
        )
    return [tuple(gpus[index * share : (index + 1) * share]) for index in range(workers)]

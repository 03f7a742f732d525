"""Turn a WorkerSpec, settings and environment into an AgentPlan. Starts nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlsplit

from vllama_pool.config.settings import RegistrySettings, WorkerSettings
from vllama_pool.config.urls import InvalidUrl, worker_url
from vllama_pool.workers.agent import state_files
from vllama_pool.workers.agent.command_line import (
    Address,
    CannotStart,
    WorkerSpec,
    bracketed,
    check_bound,
    check_spec,
    command_line,
    environment,
    find_program,
    is_cpu_build,
    is_loopback,
    offered_parsers,
    served_name,
    slots_of,
    without_compiler,
    worker_id,
)
from vllama_pool.workers.agent.managed_server import ServerSpec
from vllama_pool.workers.model import describe, parsers
from vllama_pool.workers.model.facts import read_facts
from vllama_pool.workers.model.files import locate
from vllama_pool.workers.model.structured_outputs import COMPACT, structured_output_flags
from vllama_pool.workers.process.file_lock import FileLock
from vllama_pool.workers.registry.keys import check_worker_id
from vllama_pool.workers.simulated import description
from vllama_pool.workers.vllm.flags import Flags


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """A WorkerSpec with its registry id, locks and defaults decided."""

    spec: WorkerSpec
    """With paths expanded, and without flags that mean "none"."""
    worker_id: str
    generation: int
    url: str
    """URL for routers."""
    slots: int
    grace: float
    probe_timeout: float
    """Seconds."""
    key: str | None
    """Bearer token of the server."""
    server: ServerSpec | None
    """None for an attached server."""
    notes: tuple[str, ...] = ()
    """Messages for the user, one line each."""


@contextmanager
def prepare(spec: WorkerSpec, settings: WorkerSettings, env: Mapping[str, str]) -> Iterator[AgentPlan]:
    """Decide, and lock the worker's id and port. Raises CannotStart."""
    check_spec(spec)
    check_advertise(settings.advertise, settings.registry)
    spec = replace(spec, model=os.path.expanduser(spec.model))
    with ExitStack() as locks:
        yield _attach(spec, settings, env, locks) if spec.attach else _manage(spec, settings, env, locks)


def _manage(spec: WorkerSpec, settings: WorkerSettings, env: Mapping[str, str], locks: ExitStack) -> AgentPlan:
    program, state_dir = find_program(spec.engine, env), settings.registry.state_dir
    chosen = _choose(spec, program, env)
    spec = replace(spec, flags=parsers.without_none(spec.flags))
    flags = Flags((*chosen.flags, *spec.flags))
    cpu = is_cpu_build(program)
    eager = without_compiler(flags, cpu=cpu)
    bound = flags.value("--host") or settings.advertise
    check_bound(bound)
    required = flags.number("--port") or spec.port
    exact = required is not None or "port" in settings.model_fields_set
    timeout = 0.0
    if spec.name and _lock_id(spec.name, settings, locks).holder_was_killed:  # before the port: reports a duplicate id
        timeout = state_files.ORPHAN_EXIT_TIMEOUT
    port, lock = state_files.lock_port(state_dir, bound, required or settings.port, exact=exact, timeout=timeout)
    locks.callback(lock.release)
    name = worker_id(spec, socket.gethostname(), port)
    if not spec.name:
        _lock_id(name, settings, locks)
    address = Address(settings.advertise, bound, port, "https" if flags.has("--ssl-keyfile") else "http")
    key = _key(settings, flags, env)
    server_env = environment(env, cpu=cpu, eager=eager, key=key, guidance=COMPACT in chosen.flags)
    described = description.describe if spec.engine == "simulated" else describe.describe
    return AgentPlan(
        spec=spec,
        worker_id=name,
        generation=state_files.next_generation(state_dir, name),
        url=address.url,
        slots=slots_of(flags, cpu=cpu, engine=spec.engine),
        grace=settings.grace,
        probe_timeout=settings.probe_timeout,
        key=key,
        server=ServerSpec(
            command=tuple(command_line(program, spec, address, settings.grace, eager=eager, chosen=chosen.flags)),
            env=server_env,
            address=address,
            log=state_files.log_file(state_dir, name),
            names=flags.values("--served-model-name") or (served_name(spec.model),),
            describe=lambda observed: described(spec.model, flags, observed, server_env),
            load_timeout=settings.load_timeout,
        ),
        notes=chosen.notes,
    )


def _attach(spec: WorkerSpec, settings: WorkerSettings, env: Mapping[str, str], locks: ExitStack) -> AgentPlan:
    spec = replace(spec, flags=parsers.without_none(spec.flags), attach=_attached_url(spec.attach))
    flags, parts = Flags(spec.flags), urlsplit(spec.attach)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = worker_id(spec, socket.gethostname(), port)
    _lock_id(name, settings, locks)
    return AgentPlan(
        spec=spec,
        worker_id=name,
        generation=state_files.next_generation(settings.registry.state_dir, name),
        url=advertised_url(parts, settings.advertise),
        slots=slots_of(flags, cpu=False),
        grace=settings.grace,
        probe_timeout=settings.probe_timeout,
        key=_key(settings, flags, env),
        server=None,
    )


def _choose(spec: WorkerSpec, program: tuple[str, ...], env: Mapping[str, str]) -> parsers.ParserChoice:
    """Return flags for the model's parsers and structured output, unless the user set them."""
    if spec.engine != "vllm":
        return parsers.ParserChoice()
    given = Flags(spec.flags)
    revision, folder = given.value("--revision") or "main", given.value("--download-dir")
    files = locate(spec.model, env, revision=revision, download_dir=folder)
    facts = read_facts(spec.model, files, given, parsers.SPECIAL_TOKENS)
    chosen = parsers.choose(facts, given, offered_parsers(program))
    return replace(chosen, flags=(*chosen.flags, *structured_output_flags(facts, given)))


def check_advertise(host: str, registry: RegistrySettings) -> None:
    """Raises CannotStart for a host that routers cannot reach, or an external Redis without a fleet secret."""
    if host in ("", "0.0.0.0", "::", "*"):
        raise CannotStart(f"routers cannot use '{host}' as an address; set --advertise to this machine's own")
    if registry.redis_url is None or registry.embedded:
        return
    if registry.fleet_secret is None:
        raise CannotStart("records in a Redis must be signed; set VLLAMA_FLEET_SECRET, the same for all of the fleet")
    redis_host = registry.redis_url.host
    if is_loopback(host) and not is_loopback(redis_host):
        raise CannotStart(
            f"the registry is on {redis_host}, so routers may be elsewhere and could not reach {host}; "
            "give --advertise an address of this machine that they can reach"
        )


def _attached_url(text: str) -> str:
    """Return the URL as routers require it. Raises CannotStart."""
    try:
        return worker_url(text)
    except InvalidUrl as error:
        raise CannotStart(f"--attach: {error}") from None


def advertised_url(attached: SplitResult, advertise: str) -> str:
    """Return the attached URL with loopback replaced by the advertised host."""
    if is_loopback(advertise) or not is_loopback(attached.hostname or ""):
        return attached.geturl().rstrip("/")
    port = f":{attached.port}" if attached.port else ""
    return f"{attached.scheme}://{bracketed(advertise)}{port}{attached.path}".rstrip("/")


def _lock_id(name: str, settings: WorkerSettings, locks: ExitStack) -> FileLock:
    try:
        check_worker_id(name)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    lock = state_files.lock_id(settings.registry.state_dir, name)
    locks.callback(lock.release)
    return lock


def _key(settings: WorkerSettings, flags: Flags, env: Mapping[str, str]) -> str | None:
    """Return the setting, else vLLM's own flag or variable."""
    if settings.worker_key is not None:
        return settings.worker_key.get_secret_value()
    return flags.value("--api-key") or env.get("VLLM_API_KEY") or None

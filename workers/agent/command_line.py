"""Program, command line, environment, address and port of a vLLM server. The user's flags override ours."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from vllama_pool.workers.model.files import is_repository
from vllama_pool.workers.vllm.flags import Flags

KEEP_ALIVE = 65
"""Seconds. vLLM's default of 5 makes routers reconnect constantly."""
STOP_STRINGS = 1024
"""Per request. vLLM's default is 4; Ollama has no limit."""
CPU_KV_GIB = 1
"""KV cache of CPU builds. vLLM's default takes most of the RAM."""
CPU_MAX_NUM_SEQS = 128
"""Default of vLLM 0.32 on CPUs, per process of the model."""
SIMULATED_SLOTS = 8
PORTS_TRIED = 100

ENGINES = ("vllm", "simulated")
CONFIG_FILES = ("config.json", "params.json")
"""A model folder needs one of them."""


class CannotStart(Exception):
    """The message is one line with the remedy."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker to start: the arguments of `vllama worker`. Either `model` or `attach` is set."""

    model: str = ""
    """Folder or repository id."""
    name: str = ""
    """Worker id; "" derives one."""
    port: int | None = None
    """vLLM's port; None uses the settings' port or the next free one."""
    flags: tuple[str, ...] = ()
    attach: str = ""
    """URL of a vLLM started by someone else."""
    engine: str = "vllm"
    tags: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    """`vllama serve` puts them into the agent's CUDA_VISIBLE_DEVICES; empty leaves it unchanged."""


@dataclass(frozen=True, slots=True)
class Address:
    advertised: str
    """Host that routers use."""
    bound: str
    """Host that the server binds."""
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{bracketed(self.advertised)}:{self.port}"

    @property
    def local_url(self) -> str:
        """URL that this machine can reach."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.bound, self.bound)
        return f"{self.scheme}://{bracketed(host)}:{self.port}"


def find_program(engine: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return $VLLAMA_VLLM (a command line), else `vllm` beside this Python, else on PATH. Raises CannotStart."""
    if engine == "simulated":
        return (sys.executable, "-m", "vllama_pool.workers.simulated")
    if given := shlex.split(env.get("VLLAMA_VLLM", "")):
        if shutil.which(given[0], path=env.get("PATH")) is None:
            raise CannotStart(f"cannot run {given[0]}: the program does not exist; correct VLLAMA_VLLM")
        return tuple(given)
    beside = Path(sys.executable).parent / "vllm"
    if beside.is_file() and os.access(beside, os.X_OK):
        return (str(beside),)
    if found := shutil.which("vllm", path=env.get("PATH")):
        return (found,)
    raise CannotStart("vllm was not found; install vLLM, or set VLLAMA_VLLM=/path/to/bin/vllm")


def check_spec(spec: WorkerSpec) -> None:
    """Raises CannotStart."""
    flags = Flags(spec.flags)
    if bool(spec.model) == bool(spec.attach):
        raise CannotStart("give either --model or --attach")
    if flags.has("--model", "--model-tag"):
        raise CannotStart("give the model as --model before the --, not among vLLM's flags")
    if flags.has("--uds"):
        raise CannotStart("--uds is not supported: routers reach workers by host and port")
    if flags.has("--headless"):
        raise CannotStart("--headless is not supported: a headless vLLM serves no requests")
    if spec.engine == "vllm" and spec.model:
        check_folder(spec.model)


def check_folder(model: str) -> None:
    """Raises CannotStart for a path without a model. Repository ids are left to vLLM."""
    path = Path(model).expanduser()
    looks_like_path = model.startswith(("/", "./", "../", "~")) or not is_repository(model)
    if looks_like_path and not path.exists():
        raise CannotStart(f"there is no model at {model}; give a folder, or a repository id such as Qwen/Qwen3-8B")
    if path.is_dir() and not any((path / name).is_file() for name in CONFIG_FILES):
        raise CannotStart(f"there is no model in {model}: it has no config.json; give the folder that has it")


def without_compiler(flags: Flags, *, cpu: bool) -> bool:
    """Return True on CPUs unless the user's flags enable torch's compiler, which is slow and needs a C++ compiler."""
    if flags.has("--enforce-eager"):
        return cpu and flags.on("--enforce-eager")
    return cpu and not flags.begins("-O", "--optimization-level", "-cc", "--compilation-config")


def command_line(
    program: tuple[str, ...],
    spec: WorkerSpec,
    address: Address,
    grace: float,
    *,
    eager: bool,
    chosen: tuple[str, ...] = (),
) -> list[str]:
    """Return the full command, without the API key: every local user can read arguments.

    `grace` is in seconds; `chosen` are flags for the model's abilities.
    """
    flags = Flags(spec.flags)
    model = ["--model", spec.model] if program[-1].endswith("api_server") else ["serve", spec.model]
    ours: dict[str, tuple[str, ...]] = {
        "--served-model-name": (served_name(spec.model),),
        "--host": (address.bound,),
        "--port": (str(address.port),),
        "--enable-per-request-metrics": (),
        "--enable-prompt-tokens-details": (),
        "--disable-uvicorn-access-log": (),
        "--shutdown-timeout": (str(max(1, round(grace))),),
    }
    if eager:
        ours["--enforce-eager"] = ()
    added = [word for name, values in ours.items() if not flags.has(name) for word in (name, *values)]
    return [*program, *model, *added, *chosen, *spec.flags]


def served_name(model: str) -> str:
    """Return the repository id or folder name. vLLM's default is the whole path."""
    return model if not Path(model).is_dir() else Path(model).resolve().name


def environment(
    env: Mapping[str, str], *, cpu: bool, eager: bool, key: str | None, guidance: bool = False
) -> dict[str, str]:
    """Return the agent's environment plus our defaults, minus VLLAMA_* and REDIS_URL.

    `guidance`: it is the backend of structured outputs.
    """
    ours = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE),
        "VLLM_MAX_STOP_STRINGS": str(STOP_STRINGS),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if cpu:
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_GIB)
    if eager:
        ours["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles its samplers on the first requests even with --enforce-eager
    if guidance:  # it cannot read vLLM's grammars for calls that a request forces; a JSON schema does the same
        ours["VLLM_ENFORCE_STRICT_TOOL_CALLING"] = "0"
    if key:
        ours["VLLM_API_KEY"] = key
    kept = {name: value for name, value in env.items() if not name.startswith("VLLAMA_") and name != "REDIS_URL"}
    return {**ours, **kept}


def is_cpu_build(program: tuple[str, ...]) -> bool:
    site = Path(program[0]).parent.parent.glob("lib/python3*/site-packages")
    names = ("vllm_cpu-*.dist-info", "vllm-*cpu*.dist-info")
    return any(True for folder in site for name in names for _ in folder.glob(name))


def offered_parsers(program: tuple[str, ...]) -> frozenset[str] | None:
    """Return the names of vLLM's tool and reasoning parsers, None if its source is not found."""
    site = Path(program[0]).parent.parent
    texts = [
        path.read_text("utf-8", "replace")
        for part in ("tool_parsers", "reasoning")
        for path in site.glob(f"lib/python3*/site-packages/vllm/{part}/__init__.py")
    ]
    names = frozenset(re.findall(r'^    "([\w-]+)": \(', "\n".join(texts), re.MULTILINE))
    return names or None


def slots_of(flags: Flags, *, cpu: bool, engine: str = "vllm") -> int:
    """Return the maximum running requests, 0 if it depends on the GPU.

    vLLM does not expose it. vLLM 0.32 uses 1024 on GPUs with 70 GB or more (except A100), else 256.
    """
    if engine == "simulated":
        return flags.number("--max-num-seqs", "--slots") or SIMULATED_SLOTS
    ranks = flags.number("--data-parallel-size", "-dp") or 1
    if given := flags.number("--max-num-seqs"):
        return given * ranks
    if not cpu or flags.has("--max-num-seqs", "--performance-mode", "--config"):
        return 0
    world = (flags.number("--tensor-parallel-size", "-tp") or 1) * (
        flags.number("--pipeline-parallel-size", "-pp") or 1
    )
    return CPU_MAX_NUM_SEQS * world * ranks


def worker_id(spec: WorkerSpec, host: str, port: int) -> str:
    """Return the registry id, which is stable across restarts."""
    if spec.name:
        return spec.name
    local = host.partition(".")[0]
    if spec.attach:
        remote = urlsplit(spec.attach).hostname or ""
        derived = f"{local if is_loopback(remote) else remote}-{port}"
    else:
        derived = "-".join((served_name(spec.model).rpartition("/")[2], local, str(port)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", derived).strip("-._")[:128] or f"worker-{port}"


def is_free(host: str, port: int) -> bool:
    """Return True if the port can be bound. Unresolvable names pass; the server reports them."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return True
    for family, kind, protocol, _, address in found[:1]:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError:
                return False
    return True


def check_bound(host: str) -> None:
    """Raises CannotStart for an address of another machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM)[0]
    except OSError:
        return  # the server reports it
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise CannotStart(
                    f"{host} is not an address of this machine; correct --advertise, or let vLLM listen elsewhere "
                    "(vllama worker … -- --host 0.0.0.0) if routers reach it there all the same"
                ) from error


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

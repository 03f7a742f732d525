"""How a vLLM server is started: its program, command line, environment, address and port.

Decisions only; process.py runs them. The user's own vLLM flags come last on the command line, so that they
win, and what the user has set is not set here.
"""

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
"""Seconds that vLLM keeps an idle connection; its own 5 make routers reconnect all the time."""
STOP_STRINGS = 1024
"""Stop strings per request; vLLM's own limit is 4, Ollama has none."""
CPU_KV_GIB = 1
"""KV cache of a CPU build, where the user has not set VLLM_CPU_KVCACHE_SPACE: else it takes most of the RAM."""
CPU_MAX_NUM_SEQS = 128
"""vLLM 0.32's own default for --max-num-seqs on CPUs, per process of the model."""
SIMULATED_SLOTS = 8
"""The simulated worker's default."""
PORTS_TRIED = 100

ENGINES = ("vllm", "simulated")
CONFIG_FILES = ("config.json", "params.json")
"""One of them is in every model's folder that vLLM can load."""


class CannotStart(Exception):
    """The worker cannot be started like this. The text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What one agent is asked to run; everything else is WorkerSettings.

    Either `model` or `attach` is set.
    """

    model: str = ""
    """A folder, or a repository id."""
    name: str = ""
    """The worker's id in the fleet; "" for one made of model, host and port."""
    port: int | None = None
    """vLLM's port if the user asked for this one; None takes the settings' or the next free one."""
    flags: tuple[str, ...] = ()
    """vLLM's flags, as the user gave them."""
    attach: str = ""
    """The URL of a vLLM that somebody else runs."""
    engine: str = "vllm"
    speed: float = 1.0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached."""

    advertised: str
    """The host that routers use."""
    bound: str
    """What the server binds."""
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        """For routers."""
        return f"{self.scheme}://{bracketed(self.advertised)}:{self.port}"

    @property
    def local_url(self) -> str:
        """For the agent beside it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.bound, self.bound)
        return f"{self.scheme}://{bracketed(host)}:{self.port}"


def find_program(engine: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """The server's program, without its arguments. Raises CannotStart.

    $VLLAMA_VLLM, a command line, comes first; then the `vllm` beside this Python; then the one on PATH.
    """
    if engine == "simulated":
        return (sys.executable, "-m", "vllama_pool.workers.simulated")
    if given := shlex.split(env.get("VLLAMA_VLLM", "")):
        if shutil.which(given[0], path=env.get("PATH")) is None:
            raise CannotStart(f"cannot run {given[0]}: there is no such program; correct VLLAMA_VLLM")
        return tuple(given)
    beside = Path(sys.executable).parent / "vllm"
    if beside.is_file() and os.access(beside, os.X_OK):
        return (str(beside),)
    if found := shutil.which("vllm", path=env.get("PATH")):
        return (found,)
    raise CannotStart("there is no vllm here; install vLLM, or name its program with VLLAMA_VLLM=/path/to/bin/vllm")


def check_spec(spec: AgentSpec) -> None:
    """Raises CannotStart for what cannot work, before anything is started."""
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
    """Raises CannotStart for a path without a model. What may be a hub's name, such as "org/name", is left to vLLM."""
    path = Path(model).expanduser()
    looks_like_path = model.startswith(("/", "./", "../", "~")) or not is_repository(model)
    if looks_like_path and not path.exists():
        raise CannotStart(f"there is no model at {model}; give a folder, or a repository id such as Qwen/Qwen3-8B")
    if path.is_dir() and not any((path / name).is_file() for name in CONFIG_FILES):
        raise CannotStart(f"there is no model in {model}: it has no config.json; give the folder that has it")


def without_compiler(flags: Flags, *, cpu: bool) -> bool:
    """Whether vLLM is to do without torch's compiler: on CPUs, unless the user's flags ask for it.

    There it makes the start much longer, and needs a compiler for C++. Who wants its faster tokens all the same says
    --no-enforce-eager.
    """
    if flags.has("--enforce-eager"):
        return cpu and flags.on("--enforce-eager")
    return cpu and not flags.begins("-O", "--optimization-level", "-cc", "--compilation-config")


def command_line(
    program: tuple[str, ...],
    spec: AgentSpec,
    address: Address,
    grace: float,
    *,
    eager: bool,
    chosen: tuple[str, ...] = (),
) -> list[str]:
    """The whole command. `grace` (s) is how long vLLM lets running requests finish after SIGTERM; `eager` means
    without torch's compiler; `chosen` are flags for what the model can.

    The API key is not among the arguments: everybody on the machine can read those.
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
    """What a model is called if the user says nothing: a repository's id, a folder's last name.

    vLLM itself would use the whole path, which is no name that an Ollama client could ask for.
    """
    return model if not Path(model).is_dir() else Path(model).resolve().name


def environment(env: Mapping[str, str], *, cpu: bool, eager: bool, key: str | None) -> dict[str, str]:
    """vLLM's environment: the agent's own, without our secrets, with defaults that the user may override."""
    ours = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE),
        "VLLM_MAX_STOP_STRINGS": str(STOP_STRINGS),
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if cpu:
        ours["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_GIB)
    if eager:
        ours["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles its samplers even with --enforce-eager, at the first requests
    if key:
        ours["VLLM_API_KEY"] = key
    kept = {name: value for name, value in env.items() if not name.startswith("VLLAMA_") and name != "REDIS_URL"}
    return {**ours, **kept}


def is_cpu_build(program: tuple[str, ...]) -> bool:
    """Whether this vLLM was built for CPUs, by what is installed beside it."""
    site = Path(program[0]).parent.parent.glob("lib/python3*/site-packages")
    names = ("vllm_cpu-*.dist-info", "vllm-*cpu*.dist-info")
    return any(True for folder in site for name in names for _ in folder.glob(name))


def offered_parsers(program: tuple[str, ...]) -> frozenset[str] | None:
    """The names of the parsers that this vLLM has for tool calls and thoughts; None where that cannot be seen."""
    site = Path(program[0]).parent.parent
    texts = [
        path.read_text("utf-8", "replace")
        for part in ("tool_parsers", "reasoning")
        for path in site.glob(f"lib/python3*/site-packages/vllm/{part}/__init__.py")
    ]
    names = frozenset(re.findall(r'^    "([\w-]+)": \(', "\n".join(texts), re.MULTILINE))
    return names or None


def slots_of(flags: Flags, *, cpu: bool, engine: str = "vllm") -> int:
    """Requests that run at once; 0 where it depends on the GPU, for vLLM does not tell.

    (0.32 takes 1024 on GPUs from 70 GB on, A100s excepted, and 256 on others.)
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


def worker_id(spec: AgentSpec, host: str, port: int) -> str:
    """The id in the registry: stable over restarts, unique in the fleet unless the user's names are not."""
    if spec.name:
        return spec.name
    here = host.partition(".")[0]
    if spec.attach:
        there = urlsplit(spec.attach).hostname or ""
        words = f"{here if is_loopback(there) else there}-{port}"
    else:
        words = "-".join((served_name(spec.model).rpartition("/")[2], here, str(port)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-._")[:128] or f"worker-{port}"


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind this now. A name that does not resolve is left for the server to complain."""
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
    """Raises CannotStart if this machine does not have the address: no port of it would be free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM)[0]
    except OSError:
        return  # as for is_free
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise CannotStart(
                    f"{host} is no address of this machine; correct --advertise, or let vLLM listen elsewhere "
                    "(vllama worker … -- --host 0.0.0.0) if routers reach it there all the same"
                ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def bracketed(host: str) -> str:
    """The host as URLs have it."""
    return f"[{host}]" if ":" in host else host

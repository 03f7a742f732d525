"""Routers that are measured: vLLama in one or several checkouts, and installed peers."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from tests.bench.apis import NAME, OPENAI, SERVED, Api
from tests.bench.programs import CannotMeasure
from tests.bench.rig import KEY, ROOT

PEERS = "BENCH_PEERS"
"""Variable with names or paths of peers, separated by commas. Not set: those on PATH."""


@dataclass(frozen=True, slots=True)
class Launch:
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    state_dir: Path | None = None
    """Of the registry, for a router that reads its workers there."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    api: Api
    launch: Callable[[int, str, Path], Launch]
    """From port, URL of the worker and an empty folder."""
    peer: bool = field(default=False)


def vllama(
    root: Path = ROOT,
    *,
    name: str = "vllama",
    api: Api,
    processes: int = 1,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> Contender:
    """vLLama from a checkout with registry, routing file, metrics, log and access control. `prefix` runs its Python."""

    def launch(port: int, worker: str, folder: Path) -> Launch:
        routing = folder / "routing.yaml"
        routing.write_text(f'models:\n  "{NAME}":\n    serve: {SERVED}\n')
        command = [*prefix, str(_python(root)), "-m", "vllama_pool", "serve", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--processes", str(processes), "--routing", str(routing)]
        settings = {
            "VLLAMA_API_KEYS": f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}",
            "VLLAMA_STATE_DIR": str(folder),
            "PYTHONPATH": str(root),
        }
        return Launch(command, {**_clean_environment(), **settings, **env}, root, folder)

    return Contender(name, api, launch)


def _python(root: Path) -> Path:
    own = root / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def _clean_environment() -> dict[str, str]:
    removed = ("VLLAMA_", "OLLAMA_", "REDIS")
    return {name: value for name, value in os.environ.items() if not name.startswith(removed)}


def _rust_router(subcommand: Sequence[str], level: str, program: str, port: int, worker: str, folder: Path) -> Launch:
    command = [program, *subcommand, "--host", "127.0.0.1", "--port", str(port), "--worker-urls", worker]
    command += ["--policy", "round_robin", "--log-level", level, "--prometheus-port", str(port + 1)]
    return Launch(command, os.environ, folder)


def _nginx(program: str, port: int, worker: str, folder: Path) -> Launch:
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 10000000; client_body_buffer_size 64k; {temporary}
  upstream vllm {{ server {worker.removeprefix("http://")} max_fails=0; keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://vllm; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""
    )
    return Launch([program, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"], os.environ, folder)


KINDS: Mapping[str, Callable[[str, int, str, Path], Launch]] = {
    "vllm-router": partial(_rust_router, (), "warning"),
    "sglang-router": partial(_rust_router, ("launch",), "warn"),
    "nginx": _nginx,
}
"""Peers by the name of their program. The first that is measured is the reference of ratios."""


def peers(wanted: str | None) -> list[Contender]:
    """Return the installed peers; with `wanted`, exactly these. Raises CannotMeasure."""
    if wanted is None:
        return [_peer(kind, path) for kind in KINDS if (path := shutil.which(kind))]
    found = []
    for item in filter(None, map(str.strip, wanted.split(","))):
        path = shutil.which(item)
        if Path(item).name not in KINDS:
            raise CannotMeasure(f"{item} is not a known peer; choose among {', '.join(KINDS)}, or a path to one")
        if path is None:
            raise CannotMeasure(f"the peer {item} is not installed; install it, or change {PEERS}")
        found.append(_peer(Path(item).name, path))
    return found


def _peer(kind: str, path: str) -> Contender:
    return Contender(kind, OPENAI, lambda port, worker, folder: KINDS[kind](path, port, worker, folder), peer=True)

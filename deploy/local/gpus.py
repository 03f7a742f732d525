"""Which NVIDIA GPUs this machine has."""

from __future__ import annotations

import os
import subprocess


def find_gpus() -> tuple[str, ...]:
    """The indexes of the GPUs that may be used, as CUDA_VISIBLE_DEVICES spells them; empty without any.

    An existing CUDA_VISIBLE_DEVICES is obeyed.
    """
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
    """From nvidia-smi's output (one index a line) and CUDA_VISIBLE_DEVICES, the GPUs to use."""
    present = tuple(line.strip() for line in listed.splitlines() if line.strip().isdigit())
    if not present or allowed is None:
        return present
    return tuple(part.strip() for part in allowed.split(",") if part.strip() and part.strip() != "-1")

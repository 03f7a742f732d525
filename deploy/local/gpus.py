"""Finds the NVIDIA GPUs of this machine."""

from __future__ import annotations

import os
import subprocess


def find_gpus() -> tuple[str, ...]:
    """Return the GPUs to use, in the notation of CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        query = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return select_gpus(query.stdout if query.returncode == 0 else "", visible)


def select_gpus(indices: str, visible: str | None) -> tuple[str, ...]:
    """Apply CUDA_VISIBLE_DEVICES (None: unset) to nvidia-smi's output, one index per line."""
    present = tuple(line.strip() for line in indices.splitlines() if line.strip().isdigit())
    if not present or visible is None:
        return present
    return tuple(part.strip() for part in visible.split(",") if part.strip() and part.strip() != "-1")

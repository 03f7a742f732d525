"""Compiles the fake vLLM and the load generator into an ignored folder, when their sources are newer."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
WORK = SOURCES.parents[1] / ".bench"
"""Ignored by git: programs, logs and results."""


class CannotMeasure(Exception):
    """One line with the remedy."""


@dataclass(frozen=True, slots=True)
class Programs:
    fake_vllm: Path
    load: Path


def build(work: Path = WORK) -> Programs:
    """Raises CannotMeasure without a C compiler."""
    return Programs(_compile(SOURCES / "fake_vllm.c", work), _compile(SOURCES / "load.c", work))


def _compile(source: Path, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    target = work / source.stem
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CannotMeasure("no C compiler is installed; install gcc")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise CannotMeasure(f"{source.name} does not compile; read the compiler's message:\n{result.stderr}")
    return target

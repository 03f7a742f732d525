"""Runs steps of the set-up: once, and again when their inputs change.

A step is done when its stamp file contains the fingerprint of its inputs. The stamp is removed before the work starts
and written after it, so that an interrupted step is not done.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class SetupError(Exception):
    """The set-up cannot continue. `str()` is one line: what is wrong; what to do."""


@dataclass(frozen=True)
class Step:
    title: str
    """Shown to the user, such as "router and tools (.venv)"."""
    stamp: Path
    inputs: tuple[Path, ...]
    """Files; part of the fingerprint."""
    salt: str
    """Other parts of the fingerprint, such as the Python version."""
    work: Callable[[bool], None]
    """Called with True if it may update an older result, with False to start from scratch."""
    min_free_bytes: int = 0


def fingerprint(inputs: Sequence[Path], salt: str) -> str:
    """Hash the salt, and names and contents of the inputs."""
    digest = hashlib.sha256(salt.encode())
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_step(step: Step) -> bool:
    """Run the step unless it is done. Return True if it ran. Raises SetupError."""
    expected = fingerprint(step.inputs, step.salt)
    stamped = step.stamp.read_text().strip() if step.stamp.exists() else ""
    if stamped == expected:
        return False
    folder = nearest_existing(step.stamp.parent)
    free = shutil.disk_usage(folder).free
    if free < step.min_free_bytes:
        raise SetupError(
            f"{step.title} needs {in_gigabytes(step.min_free_bytes)} of free disk, and {folder} "
            f"has {in_gigabytes(free)}: free some space and run it again"
        )
    report(f"{step.title}: installing" if not stamped else f"{step.title}: updating")
    start = time.monotonic()
    step.stamp.unlink(missing_ok=True)
    step.work(bool(stamped))
    step.stamp.parent.mkdir(parents=True, exist_ok=True)
    step.stamp.write_text(expected + "\n")
    report(f"{step.title}: done in {time.monotonic() - start:.0f} s")
    return True


@contextlib.contextmanager
def setup_lock(lock: Path) -> Iterator[None]:
    """Lock a file, so that only one set-up runs in a checkout. The kernel unlocks it if we die."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another set-up is running in this directory; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_command(title: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a command and print its output as it arrives. Raises SetupError with the likely cause."""
    output: list[str] = []
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise SetupError(f"{title} failed: cannot run {command[0]}: {error.strerror}") from error
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output = [*output[-200:], line.rstrip()]
                report_output(output[-1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SetupError(f"{title} failed: {likely_cause(output)}")


ADVICE = (
    (r"No space left on device|ENOSPC", "the disk is full; free some space and run it again"),
    (
        r"dns error|error resolving|Name or service not known|Temporary failure in name resolution"
        r"|Network is unreachable|Connection refused|[Tt]imed out|timeout|NewConnectionError|ProxyError"
        r"|tcp connect error|from versions: none",
        "no network: the package index could not be reached; connect, or configure a mirror for pip, and run it again",
    ),
    (
        r"[Hh]ash mismatch|DO NOT MATCH THE HASHES",
        "a package does not match its locked hash; if it was changed on purpose, run make lock",
    ),
    (r"ensurepip is not available", "Python's venv module is incomplete; on Debian: apt install python3-venv"),
    (
        r"no wheels with a matching Python|not supported on this platform|No matching distribution",
        "a package has no build for this Python or machine; Python 3.11 on Linux x86_64 works: "
        "make … PYTHON=python3.11",
    ),
)


def likely_cause(output: Sequence[str]) -> str:
    """Return one line: the advice for a known cause, else the last error line."""
    text = "\n".join(output)
    for pattern, advice in ADVICE:
        if re.search(pattern, text):
            return advice
    errors = [line for line in output if re.match(r"\s*(error|ERROR|[\w.]*Error)\b", line)]
    return (errors or [line for line in output if line.strip()] or ["it printed nothing"])[-1].strip()


def nearest_existing(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.absolute().parents) if candidate.exists())


def in_gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def report(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def report_output(text: str) -> None:
    if text and not re.match(r"\s*[-+~] \S+==", text):  # skip the list of packages
        sys.stderr.write(f"    {text}\n")
        sys.stderr.flush()

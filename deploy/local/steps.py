"""Steps of the set-up: each one is done once, redone when its inputs change, and safe to interrupt.

A step is done when its stamp holds the fingerprint of its inputs. The stamp is removed before the work starts
and written after it has ended, so that a step that was cut off is never taken for a finished one.
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


class Failed(Exception):
    """The set-up cannot go on. The text is one line that says what to do."""


@dataclass(frozen=True)
class Step:
    """One unit of work."""

    what: str
    """What the person who waits is told, such as "the tools (.venv)"."""
    stamp: Path
    inputs: tuple[Path, ...]
    """Files whose contents decide whether the step must be done again."""
    salt: str
    """Anything else that decides it: the Python version, the kind of build."""
    work: Callable[[bool], None]
    """Does the work. True: an older result is whole and may be updated; False: start from nothing."""
    needs_free: int = 0
    """Bytes that must be free on the disk."""


def fingerprint(inputs: Sequence[Path], salt: str) -> str:
    """Hex digest over the names and contents of the inputs, and the salt."""
    digest = hashlib.sha256(salt.encode())
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def ensure(step: Step) -> bool:
    """Do the step unless it is done. Returns whether anything was done. Raises Failed."""
    wanted = fingerprint(step.inputs, step.salt)
    found = step.stamp.read_text().strip() if step.stamp.exists() else ""
    if found == wanted:
        return False
    free = shutil.disk_usage(existing(step.stamp.parent)).free
    if free < step.needs_free:
        raise Failed(
            f"{step.what} needs {gigabytes(step.needs_free)} of free disk, and {existing(step.stamp.parent)} "
            f"has {gigabytes(free)}: free some space and run it again"
        )
    say(f"{step.what}: installing" if not found else f"{step.what}: updating")
    start = time.monotonic()
    step.stamp.unlink(missing_ok=True)
    step.work(bool(found))
    step.stamp.parent.mkdir(parents=True, exist_ok=True)
    step.stamp.write_text(wanted + "\n")
    say(f"{step.what}: done in {time.monotonic() - start:.0f} s")
    return True


@contextlib.contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """Hold a lock file, so that two set-ups in one tree follow each other. The system frees it if we die."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this directory; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(what: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a command and show its output, indented, as it comes. Raises Failed with the likely cause."""
    seen: list[str] = []
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
        raise Failed(f"{what} failed: cannot run {command[0]}: {error.strerror}") from error
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                seen = [*seen[-200:], line.rstrip()]
                show(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise Failed(f"{what} failed: {cause(seen)}")


CAUSES = (
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
    (r"ensurepip is not available", "Python's venv module is not whole; on Debian: apt install python3-venv"),
    (
        r"no wheels with a matching Python|not supported on this platform|No matching distribution",
        "a package has no build for this Python or machine; Python 3.11 on Linux x86_64 works: "
        "make … PYTHON=python3.11",
    ),
)


def cause(output: Sequence[str]) -> str:
    """The most likely cause in a failed command's output, in one line."""
    text = "\n".join(output)
    for pattern, advice in CAUSES:
        if re.search(pattern, text):
            return advice
    errors = [line for line in output if re.match(r"\s*(error|ERROR|[\w.]*Error)\b", line)]
    return (errors or [line for line in output if line.strip()] or ["it said nothing"])[-1].strip()


def existing(path: Path) -> Path:
    """The nearest parent that exists, the path itself included."""
    return next(candidate for candidate in (path, *path.absolute().parents) if candidate.exists())


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def say(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def show(text: str) -> None:
    if text and not re.match(r"\s*[-+~] \S+==", text):  # not every one of two hundred packages
        sys.stderr.write(f"    {text}\n")
        sys.stderr.flush()

"""Steps of the set-up. A step runs once, runs again when its inputs change, and can be interrupted.

A step is done when its stamp file contains the fingerprint of its inputs. The stamp is removed before the work starts
and written when it has ended, so an interrupted step never counts as done.
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
    """The set-up cannot continue. The text is one line that says what to do."""


@dataclass(frozen=True)
class Step:
    """One unit of work."""

    what: str
    """A description for the user, such as "router and tools (.venv)"."""
    stamp: Path
    inputs: tuple[Path, ...]
    """Files whose contents are part of the fingerprint."""
    salt: str
    """Anything else that is part of the fingerprint, such as the Python version."""
    work: Callable[[bool], None]
    """Does the work. True: an older, complete result may be updated. False: start from scratch."""
    needs_free: int = 0
    """Free disk space that the step needs, in bytes."""


def fingerprint(inputs: Sequence[Path], salt: str) -> str:
    """Return a hex digest of the names and contents of the inputs, and of the salt."""
    digest = hashlib.sha256(salt.encode())
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def ensure(step: Step) -> bool:
    """Run the step unless it is done. Return True if it ran. Raises Failed."""
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
    """Hold a lock file, so that only one set-up runs in a checkout. The kernel releases it if we die."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this directory; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(what: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
    """Run a command and print its output, indented, as it arrives. Raises Failed with the likely cause."""
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
    (r"ensurepip is not available", "Python's venv module is incomplete; on Debian: apt install python3-venv"),
    (
        r"no wheels with a matching Python|not supported on this platform|No matching distribution",
        "a package has no build for this Python or machine; Python 3.11 on Linux x86_64 works: "
        "make … PYTHON=python3.11",
    ),
)


def cause(output: Sequence[str]) -> str:
    """Return the most likely cause of a failed command, in one line."""
    text = "\n".join(output)
    for pattern, advice in CAUSES:
        if re.search(pattern, text):
            return advice
    errors = [line for line in output if re.match(r"\s*(error|ERROR|[\w.]*Error)\b", line)]
    return (errors or [line for line in output if line.strip()] or ["it printed nothing"])[-1].strip()


def existing(path: Path) -> Path:
    """Return the path itself if it exists, or its nearest existing parent."""
    return next(candidate for candidate in (path, *path.absolute().parents) if candidate.exists())


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def say(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def show(text: str) -> None:
    if text and not re.match(r"\s*[-+~] \S+==", text):  # skip the list of packages
        sys.stderr.write(f"    {text}\n")
        sys.stderr.flush()

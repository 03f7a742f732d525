"""Watches the files of a routing table for changes.

`FileWatch.poll` compares the files with what was read, by their stamps and, where those cannot be trusted, by their
contents. Each poll opens the files, because an open makes NFS ask its server, and follows symbolic links anew.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

QUIET = 0.25
"""Seconds without a change after which a file is at rest, and counts as completely written."""
INTERVAL = 0.15
"""Seconds between two polls of files at rest."""
CHANGING_INTERVAL = 0.05
"""Seconds between two polls until the files are at rest."""
DISTRUST = 3.0
"""Seconds after a change for which contents are compared too: coarse times do not show a second change of the same
size."""
MAX_READ = 1 << 22
"""Bytes of a file that count."""
MAX_MATCHES = 1024
"""Files of one pattern that are watched."""

Stamp = tuple[int, ...]
"""Device, inode, size, time of modification and of change; the error number of a file that cannot be opened."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Files, and absolute glob patterns whose files count as they come and go."""

    files: tuple[Path, ...]
    patterns: tuple[str, ...] = ()

    def paths(self) -> Iterator[Path]:
        """Yield the files and those that the patterns match now."""
        yield from self.files
        for pattern in self.patterns:
            for path in sorted(glob.glob(pattern, recursive=True))[:MAX_MATCHES]:
                yield Path(path)


@dataclass(frozen=True, slots=True)
class Glance:
    """One file as the watch saw it."""

    stamp: Stamp
    digest: bytes
    """Of the contents; of the error number if there are none."""


class FileWatch:
    """Compares files with the state that `begin` marked as read. All calls come from one thread at a time."""

    def __init__(
        self,
        watched: Watched,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`wall_clock` is compared with times of files."""
        self._watched = watched
        self._clock = clock
        self._wall_clock = wall_clock
        self._latest: Mapping[Path, Glance] = {}
        self._read: Mapping[Path, bytes] = {}
        self._began = 0.0
        self._changed_at = clock()
        self._was_at_rest = False
        """Before the latest change."""
        self._distrust_until = clock() + DISTRUST
        self.begin()

    @property
    def interval(self) -> float:
        """Seconds until the next poll."""
        return INTERVAL if _digests(self._latest) == self._read else CHANGING_INTERVAL

    @property
    def is_at_rest(self) -> bool:
        """True if the contents have not changed for QUIET, as of the latest look."""
        return self._changed_at + QUIET <= self._clock()

    def begin(self) -> None:
        """Mark the files as they are now as read. Call it before they are read."""
        self._began = self._wall_clock()
        self._look()
        self._read = _digests(self._latest)

    def follow(self, watched: Watched) -> None:
        """Watch these from now on: call it after a reading. New ones that may have changed since count as changed."""
        if watched == self._watched:
            return
        known = set(self._read)
        self._watched = watched
        self._look()
        since = (self._began - DISTRUST) * 1e9
        self._read = {
            path: glance.digest
            for path, glance in self._latest.items()
            if path in known or not glance.stamp[1:] or max(glance.stamp[-2:]) < since
        } | {path: digest for path, digest in self._read.items() if path in self._latest}

    def is_unchanged(self) -> bool:
        """Return True if the contents are what `begin` marked as read."""
        self._look()
        return _digests(self._latest) == self._read

    def poll(self) -> bool:
        """Return True if the contents differ from what was read, and may be complete.

        They may be after the first change, as most files are written at once, and later when they are at rest.
        """
        self._look()
        return (self._was_at_rest or self.is_at_rest) and _digests(self._latest) != self._read

    def _look(self) -> None:
        now = self._clock()
        before, distrusted = self._latest, now < self._distrust_until
        self._latest = {path: _glance(path, None if distrusted else before.get(path)) for path in self._watched.paths()}
        if self._latest != before:
            self._distrust_until = now + DISTRUST
        if _digests(self._latest) != _digests(before):
            self._was_at_rest = self._changed_at + QUIET <= now
            self._changed_at = now


def _digests(glances: Mapping[Path, Glance]) -> dict[Path, bytes]:
    return {path: glance.digest for path, glance in glances.items()}


def _glance(path: Path, before: Glance | None) -> Glance:
    """Read the file unless its stamp is the one that it had before."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if before is not None and before.stamp == stamp:
                return before
            if not stat.S_ISREG(status.st_mode):
                return Glance(stamp, b"not a file")
            return Glance(stamp, _digest(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        number = error.errno or 0
        return Glance((number,), f"error {number}".encode())


def _digest(descriptor: int) -> bytes:
    digest, left = hashlib.blake2b(digest_size=16), MAX_READ
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 18))):
        digest.update(part)
        left -= len(part)
    return digest.digest()

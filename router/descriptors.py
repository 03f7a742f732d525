"""Open files of a router process: two per stream."""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import suppress

MAX_RESERVED = 65_536
"""Descriptors. The kernel's table of them takes half a mebibyte."""


def allow_many_descriptors() -> None:
    """Raise the limit on open files to the hard limit, as Go's runtime does, and let the kernel make room for them now.

    The kernel otherwise enlarges a process's table at 256, 512, 1,024 and so on open files. If the process has other
    threads, it waits for all CPUs to be past their use of the old table, which pauses every stream for some 15 ms.
    """
    with suppress(OSError, ValueError):  # the hard limit may be above what the kernel allows now
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = (MAX_RESERVED if soft == resource.RLIM_INFINITY else min(soft, MAX_RESERVED)) - 1
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        os.close(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, highest))
    finally:
        os.close(descriptor)

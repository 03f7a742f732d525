"""Open files of a router process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, resource
from vllama_pool.router.descriptors import allow_many_descriptors
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, min(hard, HARD)))
before = len(os.listdir("/proc/self/fd"))
allow_many_descriptors()
table = next(line for line in open("/proc/self/status") if line.startswith("FDSize")).split()[1]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], table, len(os.listdir("/proc/self/fd")) - before)
"""


def limited(soft: int, hard: int) -> tuple[int, int, int]:
    """Return the limit, the size of the kernel's table, and the descriptors left open, under these limits."""
    program = PROGRAM.replace("SOFT", str(soft)).replace("HARD", str(hard))
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    limit, table, left_open = map(int, printed.stdout.split())
    return limit, table, left_open


def test_the_limit_is_raised_and_the_kernels_table_is_large_from_the_start() -> None:
    limit, table, left_open = limited(256, 4096)
    assert (limit, left_open) == (4096, 0)
    assert table >= 4096


def test_an_equal_hard_limit_is_no_error() -> None:
    limit, table, left_open = limited(128, 128)
    assert (limit, left_open) == (128, 0)
    assert table >= 128

"""A time of day that a test shifts in running processes, in any language. Monotonic time is not affected."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
HOUR = 3600


def can_shift() -> bool:
    """True if this machine can build what `ShiftedClock` preloads."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def build(folder: Path) -> Path:
    """Compile the library that a process preloads. Raises CalledProcessError."""
    library = folder / "shifted_clock.so"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)],
        check=True,
        capture_output=True,
    )
    return library


class ShiftedClock:
    """The clock of all processes that are started with `env`, and of their children."""

    def __init__(self, library: Path, file: Path) -> None:
        """`file` is created, and holds the shift."""
        self._file = file
        self.env = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(file)}
        file.write_bytes(struct.pack("=q", 0))

    def shift(self, seconds: int) -> None:
        """Set the difference from the true time. Processes see it at once."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))

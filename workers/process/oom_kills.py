"""Counts the processes of this control group that the kernel has killed for their memory."""

from __future__ import annotations

from pathlib import Path


def oom_kills(group: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the count of `memory.events` in cgroup v2, or of `memory.oom_control` in v1; 0 if neither can be read."""
    try:
        lines = group.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files = (mount / path.lstrip("/") / "memory.events", mount / "memory.events")
        elif "memory" in controllers.split(","):
            folder = mount / "memory"
            files = (folder / path.lstrip("/") / "memory.oom_control", folder / "memory.oom_control")
        else:
            continue
        for file in files:  # the second: a container may not see its own path
            if (count := _count(file)) is not None:
                return count
    return 0


def _count(file: Path) -> int | None:
    try:
        fields = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if " " in line)
        return int(fields["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None

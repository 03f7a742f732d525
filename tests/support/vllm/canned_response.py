"""A worker's answer that needs no worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllama_pool.router.upstream.interface import ConnectionLost, Sink


@dataclass
class Canned:
    """A `interface.Response` that is read in these pieces."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    """Of the body."""
    lost: bool = False
    """The connection breaks instead."""
    closed: bool = False

    async def read(self) -> bytes:
        if self.lost:
            raise ConnectionLost("gone")
        return self.chunks.pop(0) if self.chunks else b""

    def attach(self, sink: Sink) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed = True

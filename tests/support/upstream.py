"""A response of the upstream HTTP client, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllama_pool.router.upstream.interface import Sink


class Hang:
    """A step that never completes."""


Step = bytes | Exception | Hang


@dataclass
class FakeResponse:
    """An `interface.Response`: each read plays one step, and returns b"" after the last."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    reads: int = 0
    closed: int = 0

    async def read(self) -> bytes:
        step = self.steps[self.reads] if self.reads < len(self.steps) else b""
        self.reads += 1
        if isinstance(step, Hang):
            await asyncio.get_running_loop().create_future()
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, bytes)
        return step

    def attach(self, sink: Sink) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed += 1

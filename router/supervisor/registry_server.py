"""The registry of `vllama serve`: its embedded Valkey, or a Redis that runs elsewhere.

The Redis client is imported where the supervisor waits, since routers import theirs at that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vllama_pool.config.redis_address import RedisAddress
from vllama_pool.router.supervisor.console import Console
from vllama_pool.workers.process.file_lock import FileLock
from vllama_pool.workers.registry.embedded import EmbeddedFailed, EmbeddedValkey, claim, wait_ready

CLAIM_INTERVAL = 0.5
"""Seconds between attempts to become the registry's owner."""


class RegistryServer(Protocol):
    async def start(self) -> None:
        """Return once routers may start: it answers, or soon will. Raises RegistryFailed."""

    async def wait_ready(self) -> None:
        """Return once it answers. Raises RegistryFailed."""

    async def stop(self) -> None: ...


class RegistryFailed(Exception):
    """The message is one line with the remedy."""


class EmbeddedRegistry:
    """The embedded Valkey. One `serve` per state directory owns it; another takes over when the owner exits."""

    def __init__(self, state_dir: Path, console: Console) -> None:
        self._state_dir = state_dir
        self._console = console
        self._owner: FileLock | None = None
        self._valkey: EmbeddedValkey | None = None
        self._succession: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            self._owner = claim(self._state_dir)
            if self._owner is not None:
                await self._start_valkey()
        except EmbeddedFailed as error:
            raise RegistryFailed(str(error)) from error

    async def wait_ready(self) -> None:
        from vllama_pool.workers.registry.client import RegistryUnavailable

        try:
            if self._valkey is not None:
                await self._valkey.wait_ready()
                self._console.line("registry", "valkey", self.address)
                return
            await wait_ready(self.address)
        except (EmbeddedFailed, RegistryUnavailable) as error:
            raise RegistryFailed(str(error)) from error
        self._console.line("registry", "valkey", f"{self.address} (run by another vllama serve)")
        self._succession = asyncio.create_task(self._take_over(), name="registry succession")

    async def stop(self) -> None:
        if self._succession is not None:
            self._succession.cancel()
            await asyncio.wait([self._succession])
        if self._valkey is not None:
            await self._valkey.stop()
        if self._owner is not None:
            self._owner.release()

    @property
    def address(self) -> str:
        return EmbeddedValkey(self._state_dir).address

    async def _start_valkey(self) -> EmbeddedValkey:
        valkey = EmbeddedValkey(self._state_dir, say=lambda text: self._console.line("registry", "valkey", text))
        self._valkey = valkey
        await valkey.start()
        return valkey

    async def _take_over(self) -> None:
        while self._owner is None:
            await asyncio.sleep(CLAIM_INTERVAL)
            self._owner = claim(self._state_dir)
        self._console.line("registry", "valkey", "its owner has exited; running it here")
        try:
            await (await self._start_valkey()).wait_ready()
        except EmbeddedFailed as error:
            self._console.error(str(error))


class ExternalRegistry:
    """A Redis or Valkey that runs elsewhere."""

    def __init__(
        self, address: RedisAddress, fleet: str, console: Console, *, patience: float, has_view: Callable[[], bool]
    ) -> None:
        """`patience`: seconds to wait for a Redis that cannot be used yet. With a saved view of it, do not wait."""
        self._has_view = has_view
        self._patience = patience
        self._address = address
        self._fleet = fleet
        self._console = console

    async def start(self) -> None:
        from vllama_pool.workers.registry.client import RegistryUnavailable, wait_usable

        saved = await asyncio.to_thread(self._has_view)
        try:
            await wait_usable(self._address, self._fleet, self._say, patience=0 if saved else self._patience)
        except RegistryUnavailable as error:
            if not (saved and error.passing):
                raise RegistryFailed(str(error)) from error
            self._say(f"starting with the workers that this machine saved: {error}")
            return
        self._say(str(self._address))

    async def wait_ready(self) -> None:
        pass

    def _say(self, text: str) -> None:
        self._console.line("registry", "redis", text)

    async def stop(self) -> None:
        pass

"""A registry of virtual models in a dict."""

from __future__ import annotations

from collections.abc import Callable

from vllama_pool.workers.registry.client import ModelConflict, ModelStored, RegistryUnavailable, StoredModels
from vllama_pool.workers.registry.messages import ModelChanged


class FakeRegistry:
    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.changes = 0
        self.epoch = "e"
        self.routers = 1
        self.unavailable = False
        self.puts: list[str] = []
        self.acks: list[tuple[str, str]] = []
        self.before_put: Callable[[], None] = lambda: None
        """Called just before a put."""
        self.events: list[ModelChanged] = []

    @property
    def version(self) -> str:
        return f"{self.epoch}:{self.changes}:{len(self.entries)}"

    async def models(self) -> StoredModels:
        self._answer()
        return StoredModels(self.version, dict(self.entries))

    async def put_model(
        self, key: str, expected: bytes, envelope: bytes, *, request_acks: bool = False
    ) -> ModelStored | ModelConflict:
        self._answer()
        self.before_put()
        held = self.entries.get(key, b"")
        if held != expected:
            return ModelConflict(held)
        self.puts.append(key)
        before = self.version
        self.put(key, envelope)
        self.events.append(ModelChanged(request_acks, before, self.version, key, envelope))
        return ModelStored(self.version, self.routers)

    async def acknowledge(self, version: str, router: str) -> None:
        self._answer()
        self.acks.append((version, router))

    def put(self, key: str, envelope: bytes) -> None:
        self.changes += 1
        if envelope:
            self.entries[key] = envelope
        else:
            self.entries.pop(key, None)

    def flush(self) -> None:
        self.entries.clear()
        self.changes = 0
        self.epoch += "e"

    def _answer(self) -> None:
        if self.unavailable:
            raise RegistryUnavailable("no answer from the registry at /somewhere/private")

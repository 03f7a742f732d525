"""The workers that operators drain: asked of one router, kept in the registry, followed by every router.

A router keeps what it has read, so that a flushed registry gets it back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from vllama_pool.router.log_once import LogOnce
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.messages import WantChanged
from vllama_pool.workers.registry.signature import RecordRefused
from vllama_pool.workers.registry.want import Want, WantNotStored, decode_want, encode_want

MAX_TRIES = 5
"""Writes of one request. Another router's higher revision makes one fail."""

_log = logging.getLogger(__name__)


class WantStore(Protocol):
    async def put_want(self, worker_id: str, entry: bytes) -> bytes: ...


class Drains:
    """Keeps the set of drained workers of one router process."""

    def __init__(
        self,
        store: WantStore,
        apply: Callable[[frozenset[str]], None],
        *,
        fleet: str,
        secret: bytes | None,
        allow_unsigned: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`apply` receives the ids of all drained workers, whether they are present or not. `clock`: Unix seconds."""
        self._store = store
        self._apply = apply
        self._fleet = fleet
        self._secret = secret
        self._allow_unsigned = allow_unsigned
        self._clock = clock
        self._wants: dict[str, Want] = {}
        self._entries: dict[str, bytes] = {}
        """Accepted entry of each want."""
        self._refusals = LogOnce(_log, "what the registry asks of worker %r is ignored: %s")
        self.drained: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<Drains of {len(self.drained)} workers>"

    @property
    def can_sign(self) -> bool:
        """False if routers would refuse what this one writes: a shared Redis without a fleet secret."""
        return self._secret is not None or self._allow_unsigned

    @property
    def entries(self) -> dict[str, bytes]:
        """The known wants of workers, as the registry keeps them."""
        return dict(self._entries)

    def polled(self, entries: Mapping[str, bytes]) -> None:
        """Follow all entries of the registry."""
        for worker_id, entry in entries.items():
            if self._entries.get(worker_id) != entry:
                self._follow(worker_id, entry)

    async def restore(self, entries: Mapping[str, bytes]) -> None:
        """Write the entries that the registry has lost. `entries`: those that it has. Raises RegistryUnavailable."""
        for worker_id, entry in list(self._entries.items()):
            if worker_id not in entries:
                self._follow(worker_id, await self._store.put_want(worker_id, entry))

    def changed(self, event: WantChanged) -> None:
        self._follow(event.worker_id, event.entry)

    async def ask(self, worker_id: str, *, drain: bool) -> bool:
        """Drain a worker or end its drain, in every router. Return False if it is as asked already.

        Raises WantNotStored.
        """
        if (worker_id in self.drained) is drain:
            return False
        for _ in range(MAX_TRIES):
            known = self._wants.get(worker_id)
            now = self._clock()
            revision = max(int(now * 1000), known.revision + 1 if known is not None else 1)
            want = Want(worker=worker_id, drain=drain, revision=revision, asked=now)
            entry = encode_want(want, fleet=self._fleet, secret=self._secret)
            try:
                stored = await self._store.put_want(worker_id, entry)
            except RegistryUnavailable as error:
                raise WantNotStored(str(error)) from error
            self._follow(worker_id, stored or entry)
            if not stored:
                return True
        raise WantNotStored(
            f"the registry holds another entry for worker {worker_id!r}; try again, or set VLLAMA_FLEET_SECRET to the "
            "same everywhere"
        )

    def _follow(self, worker_id: str, entry: bytes) -> None:
        """Take over an entry with a higher revision than the known one."""
        if not entry:
            return
        try:
            want = decode_want(
                entry, worker_id, fleet=self._fleet, secret=self._secret, allow_unsigned=self._allow_unsigned
            )
        except RecordRefused as error:
            self._refusals.warn(worker_id, str(error))
            return
        known = self._wants.get(worker_id)
        if known is not None and known.revision >= want.revision:
            return
        self._wants[worker_id], self._entries[worker_id] = want, entry
        drained = frozenset(each.worker for each in self._wants.values() if each.drain)
        if drained != self.drained:
            self.drained = drained
            self._apply(drained)

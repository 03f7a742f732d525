"""Synchronizes a router process's copy of the virtual models with the registry.

The channel announces changes; polls repair what was missed. The highest revision wins, and routers restore entries
that the registry has lost. Only a change of a model waits for the registry.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

from vllama_pool.router.errors import ClientError
from vllama_pool.router.virtual_models.acks import ACK_TIMEOUT, Acks
from vllama_pool.router.virtual_models.model_signer import ModelSigner, SignaturePolicy
from vllama_pool.router.virtual_models.quota import check_quota
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.registry.client import ModelConflict, ModelStored, RegistryUnavailable, StoredModels
from vllama_pool.workers.registry.messages import ModelAck, ModelChanged
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of, key_of

TRIES = 32
"""Attempts at one change, if other routers change the model too."""
RETRY_AFTER = 5
"""Seconds, as the Retry-After header."""
MAX_RESTORED = 128
"""Maximum entries restored per poll, so that worker updates are not delayed."""
WARN_EVERY = 60
"""Seconds. Two routers with different secrets overwrite each other's entries in turn."""

SAVE_RETRY = 10.0
"""Seconds from a failed save to the next."""

_log = logging.getLogger(__name__)


class ModelRegistry(Protocol):
    """Implemented by `workers.registry.client.Registry`."""

    async def models(self) -> StoredModels: ...

    async def put_model(
        self, key: str, expected: bytes, envelope: bytes, *, request_acks: bool = False
    ) -> ModelStored | ModelConflict: ...

    async def acknowledge(self, version: str, router: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    envelope: bytes
    model: VirtualModel | None
    """None if refused."""


class ModelSync:
    """Changes virtual models in the registry and in `store`. A `registry_loop.ModelListener`."""

    def __init__(
        self,
        registry: ModelRegistry,
        store: ModelStore,
        policy: SignaturePolicy,
        *,
        router_id: str,
        file: SaveFile | None = None,
        clock: Callable[[], float] = time.time,
        shadowed: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`clock` returns Unix seconds. `shadowed` returns the virtual models whose name a served or configured model
        has."""
        self.store = store
        self._registry = registry
        self._signer = ModelSigner(policy)
        self._router_id = router_id
        self._file = file
        self._clock = clock
        self._shadowed = shadowed
        self._version: str | None = None
        self._entries: dict[str, _Entry] = {}
        self._acks = Acks()
        self._announced: set[str] = set()
        """Keys that the channel announced since the last poll."""
        self._warned_at = -math.inf
        self._logged_shadowed: set[str] = set()
        self._unsaved = False
        self._save_failed_at = -math.inf

    @property
    def has_read(self) -> bool:
        """True once the registry's models are in the store."""
        return self._version is not None

    def load(self) -> None:
        """Merge the file's models. Call it once, first."""
        if self._file is not None:
            for model in self._file.load():
                self.store.merge(model)

    # --- changes ---

    async def change(self, decide: Callable[[], VirtualModel | None]) -> VirtualModel | None:
        """Write the model that `decide` returns, with revision, time and digest. Return None if `decide` does.

        `decide` reads the store; it is called again if another router was faster. Returns once all routers have the
        change, ACK_TIMEOUT later at most. Raises ClientError if the registry is unavailable or full.
        """
        for _ in range(TRIES):
            decided = decide()
            if decided is None:
                return None
            now = self._clock()
            key = key_of(decided.name)
            known = self.store.all.get(key)
            model = msgspec.structs.replace(
                decided,
                revision=next_revision(known.revision if known else 0, now),
                changed=now,
                parts_digest=digest_of(decided.parts) if decided.parts else "",
            )
            envelope = self._signer.sign(key, model)
            self._check_quota(key, model, envelope)
            put = await self._put(key, envelope)
            if put is not None:
                self._adopt(key, _Entry(envelope, model))
                _log.info(
                    "virtual model %r %s", model.name, "deleted" if model.deleted else f"created from {model.base!r}"
                )
                await self._finish(model, put)
                return model
        raise _unavailable("other clients are changing this model at the same time")

    async def _put(self, key: str, envelope: bytes) -> ModelStored | None:
        """Return None if another router was faster."""
        entry = self._entries.get(key)
        try:
            reply = await self._registry.put_model(key, entry.envelope if entry else b"", envelope, request_acks=True)
        except RegistryUnavailable as error:
            _log.warning("a virtual model could not be changed: %s", error)
            raise _unavailable("the registry does not answer") from None
        if isinstance(reply, ModelConflict):
            self._read_entry(key, reply.envelope)
            return None
        return reply

    async def _finish(self, model: VirtualModel, put: ModelStored) -> None:
        """Save an accepted change, and wait for the other routers."""
        await self._save()
        if model.deleted:
            await self._delete_dropped_tombstones()
        if not await self._acks.wait(put.version, others=put.routers - 1, but=self._router_id):
            _log.info("some router processes have not acknowledged a virtual model within %g s", ACK_TIMEOUT)

    async def _delete_dropped_tombstones(self) -> None:
        """Delete them from the registry too."""
        with suppress(RegistryUnavailable):  # the next deletion tries again
            for key, entry in list(self._entries.items()):
                if entry.model is not None and entry.model.deleted and key not in self.store.all:
                    await self._registry.put_model(key, entry.envelope, b"")

    def _check_quota(self, key: str, model: VirtualModel, envelope: bytes) -> None:
        others = sum(len(entry.envelope) for other, entry in self._entries.items() if other != key)
        if not model.deleted:
            check_quota(size=len(envelope), others=others, count=len(self.store.live.keys() | {key}))

    # --- events from the registry ---

    async def polled(self, version: str) -> None:
        """Raises RegistryUnavailable."""
        if version != self._version or self._overwritten():
            first = self._version is None
            await self._read_all()
            try:
                await self._restore(expected=first)
            except RegistryUnavailable:
                self._version = ""  # the next poll continues
                raise
        if self._unsaved and abs(self._clock() - self._save_failed_at) >= SAVE_RETRY:
            await self._save()
        self._log_shadowed()

    async def changed(self, event: ModelChanged) -> None:
        """Apply an announced change, and acknowledge it if asked. Raises RegistryUnavailable."""
        self._read_entry(event.key, event.envelope)
        self._announced.add(event.key)
        if event.before == self._version:
            self._version = event.after
        if event.wants_ack:
            await self._registry.acknowledge(event.after, self._router_id)

    def acknowledged(self, event: ModelAck) -> None:
        self._acks.add(event)

    async def _read_all(self) -> None:
        found = await self._registry.models()
        for key in self._entries.keys() - found.envelopes.keys():
            del self._entries[key]
        for key, envelope in found.envelopes.items():
            self._read_entry(key, envelope)
        self._version = found.version

    async def _restore(self, *, expected: bool) -> None:
        """Write the entries that the registry lacks. `expected`: at the first poll, the file may know more."""
        lacking = [(key, model) for key, model in self.store.all.items() if self._lacks(key, model)]
        for key, model in lacking[:MAX_RESTORED]:
            entry = self._entries.get(key)
            envelope = self._signer.sign(key, model)
            reply = await self._registry.put_model(key, entry.envelope if entry else b"", envelope)
            self._read_entry(key, reply.envelope if isinstance(reply, ModelConflict) else envelope)
        if lacking:
            self._log_restored(len(lacking), expected)
        if len(lacking) > MAX_RESTORED:
            self._version = ""  # the next poll continues

    def _log_restored(self, count: int, expected: bool) -> None:
        now = self._clock()
        text = "the registry lacks %d virtual models or deletions; restoring them"
        if expected:
            _log.info(text, count)
        elif abs(now - self._warned_at) >= WARN_EVERY:
            self._warned_at = now
            _log.warning(text, count)

    def _overwritten(self) -> bool:
        """True if an announced change replaced an entry by an older or refused one."""
        announced, self._announced = self._announced, set()
        known = ((key, self.store.all.get(key)) for key in announced)
        return any(model is not None and self._lacks(key, model) for key, model in known)

    def _lacks(self, key: str, model: VirtualModel) -> bool:
        entry = self._entries.get(key)
        return entry is None or entry.model is None or entry.model.revision < model.revision

    def _read_entry(self, key: str, envelope: bytes) -> None:
        """Apply the registry's entry; b"" for none."""
        if not envelope:
            self._entries.pop(key, None)
            return
        entry = self._entries.get(key)
        if entry is None or entry.envelope != envelope:
            entry = _Entry(envelope, self._signer.verify(key, envelope))
        self._adopt(key, entry)

    def _adopt(self, key: str, entry: _Entry) -> None:
        self._entries[key] = entry
        if entry.model is not None and self.store.merge(entry.model, from_registry=True):
            self.store.drop_oldest_tombstones()
            self._unsaved = True

    async def _save(self) -> None:
        self._unsaved = False
        if self._file is not None and not await asyncio.to_thread(self._file.save, list(self.store.all.values())):
            self._unsaved, self._save_failed_at = True, self._clock()

    def _log_shadowed(self) -> None:
        shadowed = set(self._shadowed())
        for name in sorted(shadowed - self._logged_shadowed):
            _log.warning("virtual model %r cannot be reached: a served or configured model has the same name", name)
        self._logged_shadowed = shadowed


def next_revision(known: int, now: float) -> int:
    """Return a revision above `known`, normally the wall clock in ms. `now` is in Unix seconds.

    known + 1 is not enough: another router may hold a newer tombstone that we have dropped, and a forged entry can
    hide a newer revision.
    """
    return max(known + 1, int(now * 1000))


def _unavailable(why: str) -> ClientError:
    return ClientError(f"models cannot be changed now: {why}; try again", status=503, retry_after=RETRY_AFTER)

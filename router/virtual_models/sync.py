"""Keeps a router process's copy of the virtual models and the registry alike.

The registry's channel tells of changes within milliseconds, and its polls repair what was missed. Whatever the
registry has lost or was never told (it was emptied, it is started anew) it gets back from here: the highest revision
wins everywhere. Requests read the copy, in memory; only a change of a model waits for the registry.
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
from vllama_pool.router.virtual_models.quota import check_quota
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.sealing import Sealer, SignaturePolicy
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.registry.client import ModelHeld, ModelPut, ModelsHeld, RegistryUnavailable
from vllama_pool.workers.registry.messages import ModelChanged, ModelSeen
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of, key_of

TRIES = 32
"""Attempts at one change while others change the same model."""
RETRY_AFTER = 5
"""Seconds that a client is asked to wait for the registry."""
RESTORED_AT_ONCE = 128
"""Entries that a poll gives back to the registry: those of the workers are not to wait for long."""
SAID_EVERY = 60
"""Seconds between two lines in the log about what the registry lacks: two routers that do not believe each other take
turns in overwriting."""

_log = logging.getLogger(__name__)


class ModelRegistry(Protocol):
    """The part of `Registry` that is used here."""

    async def models(self) -> ModelsHeld: ...

    async def put_model(
        self, key: str, expected: bytes, envelope: bytes, *, ask: bool = False
    ) -> ModelPut | ModelHeld: ...

    async def seen(self, version: str, router: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """An entry of the registry."""

    envelope: bytes
    model: VirtualModel | None
    """None for one that is refused."""


class ModelSync:
    """The one who changes `store`, and the registry's virtual models. See `registry_loop.ModelListener`."""

    def __init__(
        self,
        registry: ModelRegistry,
        store: ModelStore,
        trust: SignaturePolicy,
        *,
        router_id: str,
        file: SaveFile | None = None,
        clock: Callable[[], float] = time.time,
        shadowed: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`clock` gives Unix seconds. `shadowed` names the virtual models that requests do not reach, since others have
        their names now."""
        self.store = store
        self._registry = registry
        self._sealer = Sealer(trust)
        self._router_id = router_id
        self._file = file
        self._clock = clock
        self._shadowed = shadowed
        self._version: str | None = None
        self._held: dict[str, _Held] = {}
        self._acks = Acks()
        self._doubted: set[str] = set()
        """Keys of changes heard of since the latest poll."""
        self._said_at = -math.inf
        self._named: set[str] = set()
        self._unsaved = False

    def load(self) -> None:
        """Take over what the file has. To be called once, before anything else."""
        if self._file is not None:
            for model in self._file.load():
                self.store.take(model)

    # --- changes ---

    async def change(self, decide: Callable[[], VirtualModel | None]) -> VirtualModel | None:
        """Make a change that `decide` finds from what the store holds, and return it as it was made; None if there is
        none to make. It is asked again when another router was faster. Revision, time and digest are set here.

        Ends when all routers have it, or after ACK_TIMEOUT. Raises what `decide` raises, and ClientError where the
        registry is away or full.
        """
        for _ in range(TRIES):
            decided = decide()
            if decided is None:
                return None
            now = self._clock()
            key = key_of(decided.name)
            known = self.store.every.get(key)
            model = msgspec.structs.replace(
                decided,
                revision=next_revision(known.revision if known else 0, now),
                changed=now,
                parts_digest=digest_of(decided.parts) if decided.parts else "",
            )
            envelope = self._sealer.seal(key, model)
            self._check_room(key, model, envelope)
            put = await self._put(key, envelope)
            if put is not None:
                self._adopt(key, _Held(envelope, model))
                _log.info(
                    "virtual model %r %s", model.name, "deleted" if model.deleted else f"made from {model.base!r}"
                )
                await self._settle(model, put)
                return model
        raise _not_now("others are changing this model at the same time")

    async def _put(self, key: str, envelope: bytes) -> ModelPut | None:
        """Into the registry. None if somebody was faster."""
        held = self._held.get(key)
        try:
            reply = await self._registry.put_model(key, held.envelope if held else b"", envelope, ask=True)
        except RegistryUnavailable as error:
            _log.warning("a virtual model could not be changed: %s", error)
            raise _not_now("the registry does not answer") from None
        if isinstance(reply, ModelHeld):
            self._meet(key, reply.envelope)
            return None
        return reply

    async def _settle(self, model: VirtualModel, put: ModelPut) -> None:
        """What is still to do for a change that the registry has taken."""
        await self._save()
        if model.deleted:
            await self._drop_oldest()
        if not await self._acks.wait(put.version, others=put.routers - 1, but=self._router_id):
            _log.info("not every router process has seen a change of the virtual models within %g s", ACK_TIMEOUT)

    async def _drop_oldest(self) -> None:
        """Take out of the registry the tombstones that are forgotten here."""
        with suppress(RegistryUnavailable):  # the next deletion tries again
            for key, held in list(self._held.items()):
                if held.model is not None and held.model.deleted and key not in self.store.every:
                    await self._registry.put_model(key, held.envelope, b"")

    def _check_room(self, key: str, model: VirtualModel, envelope: bytes) -> None:
        others = sum(len(held.envelope) for other, held in self._held.items() if other != key)
        if not model.deleted:
            check_quota(size=len(envelope), others=others, count=len(self.store.live.keys() | {key}))

    # --- what the registry tells ---

    async def polled(self, version: str) -> None:
        """A poll of the registry has seen its models at this version. Raises RegistryUnavailable."""
        if version != self._version or self._overwritten():
            first = self._version is None
            await self._read_all()
            try:
                await self._restore(expected=first)
            except RegistryUnavailable:
                self._version = ""  # so that the next poll goes on
                raise
        if self._unsaved:
            await self._save()
        self._name_shadowed()

    async def changed(self, event: ModelChanged) -> None:
        """Somebody has changed an entry. Raises RegistryUnavailable."""
        self._meet(event.key, event.envelope)
        self._doubted.add(event.key)
        if event.before == self._version:
            self._version = event.after
        if event.asked:
            await self._registry.seen(event.after, self._router_id)

    def seen(self, event: ModelSeen) -> None:
        """A router process has taken over a change."""
        self._acks.seen(event)

    async def _read_all(self) -> None:
        found = await self._registry.models()
        for key in self._held.keys() - found.envelopes.keys():
            del self._held[key]
        for key, envelope in found.envelopes.items():
            self._meet(key, envelope)
        self._version = found.version

    async def _restore(self, *, expected: bool) -> None:
        """Give the registry what it lacks. Where another router is faster, the next poll shows what it did. `expected`
        to be needed: at the start of everything the registry is empty, and the file is not."""
        lacking = [(key, model) for key, model in self.store.every.items() if self._lacks(key, model)]
        for key, model in lacking[:RESTORED_AT_ONCE]:
            held = self._held.get(key)
            envelope = self._sealer.seal(key, model)
            reply = await self._registry.put_model(key, held.envelope if held else b"", envelope)
            self._meet(key, reply.envelope if isinstance(reply, ModelHeld) else envelope)
        if lacking:
            self._say_lacking(len(lacking), expected)
        if len(lacking) > RESTORED_AT_ONCE:
            self._version = ""  # so that the next poll goes on

    def _say_lacking(self, count: int, expected: bool) -> None:
        now = self._clock()
        words = "the registry lacks %d of the virtual models and deletions; it gets them"
        if expected:
            _log.info(words, count)
        elif abs(now - self._said_at) >= SAID_EVERY:
            self._said_at = now
            _log.warning(words, count)

    def _overwritten(self) -> bool:
        """Whether a change that was heard of has left the registry with less than is known here."""
        doubted, self._doubted = self._doubted, set()
        known = ((key, self.store.every.get(key)) for key in doubted)
        return any(model is not None and self._lacks(key, model) for key, model in known)

    def _lacks(self, key: str, model: VirtualModel) -> bool:
        held = self._held.get(key)
        return held is None or held.model is None or held.model.revision < model.revision

    def _meet(self, key: str, envelope: bytes) -> None:
        """The registry holds this under a key; empty for nothing."""
        if not envelope:
            self._held.pop(key, None)
            return
        held = self._held.get(key)
        if held is None or held.envelope != envelope:
            held = _Held(envelope, self._sealer.unseal(key, envelope))
        self._adopt(key, held)

    def _adopt(self, key: str, held: _Held) -> None:
        self._held[key] = held
        if held.model is not None and self.store.take(held.model, settled=True):
            self.store.forget_oldest()
            self._unsaved = True

    # --- beside ---

    async def _save(self) -> None:
        self._unsaved = False
        if self._file is not None:
            await asyncio.to_thread(self._file.save, list(self.store.every.values()))

    def _name_shadowed(self) -> None:
        """Log once which virtual models have lost their names to others."""
        shadowed = set(self._shadowed())
        for name in sorted(shadowed - self._named):
            _log.warning(
                "the virtual model %r is out of reach: a model that is served or configured has its name", name
            )
        self._named = shadowed


def next_revision(known: int, now: float) -> int:
    """That of a change made at `now` (Unix seconds) where the latest that is known here is `known`, 0 for none. One
    more would do if all were known: a deletion may be forgotten here and remembered by a router that was away, and
    a forged entry hides what this router has yet to hear of."""
    return max(known + 1, int(now * 1000))


def _not_now(why: str) -> ClientError:
    return ClientError(f"models cannot be changed now: {why}; try again", status=503, retry_after=RETRY_AFTER)

"""Tells the routers of a fleet about crashed engines and refused requests, through the registry.

Without a registry, each router judges by what it has seen itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vllama_pool.router.poison.news import News, Refused, decode_news, encode_news
from vllama_pool.router.poison.trials import TrialStore
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.signature import RecordRefused

_log = logging.getLogger(__name__)


class NewsStore(TrialStore, Protocol):
    async def put_refusal(self, digest: str, envelope: bytes) -> None: ...

    async def drop_refusals(self, *digests: str) -> None: ...

    async def refusals(self) -> dict[str, bytes]: ...

    async def publish_poison(self, envelope: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Signer:
    fleet: str
    secret: bytes | None
    allow_unsigned: bool


class Messenger:
    def __init__(self, store: NewsStore, signer: Signer) -> None:
        self._store = store
        self._signer = signer

    def __repr__(self) -> str:
        return f"<Messenger of {self._signer.fleet}>"

    def read(self, envelope: bytes) -> News:
        """Return the news in an envelope; none if nobody in the fleet signed it."""
        signer = self._signer
        try:
            return decode_news(envelope, fleet=signer.fleet, secret=signer.secret, allow_unsigned=signer.allow_unsigned)
        except RecordRefused as error:
            _log.warning("news about crashed engines are ignored: %s", error)
            return News()

    async def publish(self, news: News) -> None:
        try:
            await self._store.publish_poison(self._envelope(news))
        except RegistryUnavailable:
            return

    async def publish_refusal(self, refused: Refused) -> None:
        """Publish it, and keep it for routers that start later."""
        news = News(refused=(refused,))
        await self.publish(news)
        try:
            await self._store.put_refusal(refused.digest, self._envelope(news))
        except RegistryUnavailable:
            return

    async def drop_refusals(self, digests: Sequence[str]) -> None:
        try:
            await self._store.drop_refusals(*digests)
        except RegistryUnavailable:
            return

    async def kept(self) -> list[News]:
        """Return the refusals that are kept. Raises RegistryUnavailable."""
        return [self.read(envelope) for envelope in (await self._store.refusals()).values()]

    def _envelope(self, news: News) -> bytes:
        return encode_news(news, fleet=self._signer.fleet, secret=self._signer.secret)

"""Messages between routers about crashes and refused requests, in signed envelopes over the registry."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vllama_pool.workers.registry.record import Count
from vllama_pool.workers.registry.signature import decode, sign, verify

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class CrashNews(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that a router had in flight on an engine that crashed."""

    worker: str
    generation: Count
    number: Count
    """`EngineExit.number`."""
    cause: str
    digests: tuple[Digest, ...]
    begun: tuple[Digest, ...] = ()
    """Those whose answers had begun."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A request that routers refuse, each by its own clock."""

    digest: Digest
    evidence: str
    """For clients and operators, without the request's content."""
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86400.0)]


class News(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    crashes: tuple[CrashNews, ...] = ()
    answered: tuple[Digest, ...] = ()
    """Requests that another engine has begun to answer since."""
    completed: tuple[Digest, ...] = ()
    """Requests that another engine has answered since."""
    refused: tuple[Refused, ...] = ()


def encode_news(news: News, *, fleet: str, secret: bytes | None) -> bytes:
    """Return the envelope, unsigned without a secret."""
    return sign(msgspec.json.encode(news), _bound(fleet), secret)


def decode_news(envelope: bytes, *, fleet: str, secret: bytes | None, allow_unsigned: bool = False) -> News:
    """Raises RecordRefused. `allow_unsigned` as in `signature.verify`."""
    return decode(verify(envelope, _bound(fleet), secret, allow_unsigned=allow_unsigned), News)


def _bound(fleet: str) -> bytes:
    return f"vllama poison news\n{fleet}\n".encode()

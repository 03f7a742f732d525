"""Requests of operators to a worker, beside its record: to drain, or to serve again.

An entry is "REVISION\\nENVELOPE". The script that writes it compares revisions, which it can read without the
signature. A worker that serves again keeps its entry, so that a router that missed the change cannot restore a drain.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vllama_pool.workers.registry.record import YEAR_10000
from vllama_pool.workers.registry.signature import RecordRefused, decode, sign, verify

MAX_REVISION_DIGITS = 18


class WantNotStored(Exception):
    """The registry did not take what was asked of a worker. One line with the remedy."""


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of what operators ask of a worker."""

    worker: str
    """Its id in the pool. It need not be present."""
    drain: bool
    """It gets no new requests."""
    revision: Annotated[int, msgspec.Meta(ge=1, lt=10**MAX_REVISION_DIGITS)]
    """The highest wins. Normally the Unix time in ms."""
    asked: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    """Unix seconds, for display only."""
    v: int = 1


def encode_want(want: Want, *, fleet: str, secret: bytes | None) -> bytes:
    """Return the entry, unsigned without a secret."""
    envelope = sign(msgspec.json.encode(want), _bound(fleet, want.worker), secret)
    return b"%d\n%b" % (want.revision, envelope)


def decode_want(
    entry: bytes, worker_id: str, *, fleet: str, secret: bytes | None, allow_unsigned: bool = False
) -> Want:
    """Raises RecordRefused. `allow_unsigned` as in `signature.verify`."""
    revision, _, envelope = entry.partition(b"\n")
    want = decode(verify(envelope, _bound(fleet, worker_id), secret, allow_unsigned=allow_unsigned), Want)
    if want.worker != worker_id:
        raise RecordRefused(f"it is about {want.worker!r}")
    if revision != b"%d" % want.revision:
        raise RecordRefused("its revision is not the signed one")
    return want


def _bound(fleet: str, worker_id: str) -> bytes:
    return f"vllama worker want\n{fleet}\n{worker_id}\n".encode()

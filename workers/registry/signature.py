"""Signed envelopes of registry entries, so that routers use only workers and virtual models of their fleet.

HMAC-SHA256 over the JSON bytes, the fleet and the entry's key. Load reports are unsigned: a writer to Redis can skew
the balance, but cannot make routers contact a server.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

import msgspec

from vllama_pool.workers.registry.record import WorkerRecord

MAX_ENVELOPE = 1 << 20
"""Maximum bytes that routers parse."""


T = TypeVar("T")


class RecordRefused(ValueError):
    """The envelope is damaged, unsigned, or signed with another secret."""


class _Envelope(msgspec.Struct, omit_defaults=True):
    record: msgspec.Raw
    sig: str = ""


def sign_record(record: WorkerRecord, *, fleet: str, secret: bytes | None) -> bytes:
    """Return the record's envelope, unsigned without a secret."""
    return sign(msgspec.json.encode(record), _bound(fleet, record.id), secret)


def verify_record(
    envelope: bytes, *, worker_id: str, fleet: str, secret: bytes | None, allow_unsigned: bool = False
) -> WorkerRecord:
    """Return the record stored under `worker_id`. Raises RecordRefused. `allow_unsigned` as in `verify`."""
    raw = verify(envelope, _bound(fleet, worker_id), secret, allow_unsigned=allow_unsigned)
    record = decode(raw, WorkerRecord)
    if record.id != worker_id:
        raise RecordRefused(f"its record is that of {record.id!r}")
    return record


def sign(raw: bytes, bound: bytes, secret: bytes | None) -> bytes:
    """Put JSON into an envelope, unsigned without a secret. `bound` is the entry's identity."""
    signature = _signature_of(raw, bound, secret) if secret else ""
    return msgspec.json.encode(_Envelope(msgspec.Raw(raw), signature))


def verify(envelope: bytes, bound: bytes, secret: bytes | None, *, allow_unsigned: bool = False) -> bytes:
    """Return the envelope's JSON. Raises RecordRefused.

    `allow_unsigned` accepts a missing signature, and without a secret any: only for a store that no other user writes.
    """
    if len(envelope) > MAX_ENVELOPE:
        raise RecordRefused(f"its record has {len(envelope)} bytes; {MAX_ENVELOPE} are allowed")
    outer = decode(envelope, _Envelope)
    raw = bytes(outer.record)
    if secret and outer.sig:
        if not hmac.compare_digest(outer.sig.encode(), _signature_of(raw, bound, secret).encode()):
            raise RecordRefused("its signature is wrong; is VLLAMA_FLEET_SECRET the same everywhere?")
    elif not allow_unsigned:
        raise RecordRefused(
            "it is not signed; set VLLAMA_FLEET_SECRET for its agent"
            if secret
            else "its signature cannot be checked; set VLLAMA_FLEET_SECRET for this router"
        )
    return raw


def decode(raw: bytes, kind: type[T]) -> T:
    """Raises RecordRefused."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefused(f"its record is damaged: {error}") from error


def _bound(fleet: str, worker_id: str) -> bytes:
    return f"vllama worker record\n{fleet}\n{worker_id}\n".encode()


def _signature_of(raw: bytes, bound: bytes, secret: bytes) -> str:
    return hmac.new(secret, bound + raw, hashlib.sha256).hexdigest()

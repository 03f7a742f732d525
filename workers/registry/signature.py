"""Signed records: a router uses a worker, or a virtual model, only if somebody who knows the fleet's secret has
announced it.

The signature is HMAC-SHA256 over the record's JSON exactly as it travels, so that nothing has to be put into
a canonical form and fields of a newer version stay covered. The fleet and the worker's id are bound in: an
envelope cannot be moved to another fleet that happens to share the secret, nor to another worker's entry.
Loads are not signed: whoever can write to Redis can distort the balance, but cannot have anybody contacted.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

import msgspec

from vllama_pool.workers.registry.record import WorkerRecord

MAX_ENVELOPE = 1 << 20
"""Bytes. Larger than any record with its models' templates; a bound on what routers will parse."""


T = TypeVar("T")


class RecordRefused(ValueError):
    """The envelope is damaged, unsigned, or signed by somebody else. The text says which."""


class _Envelope(msgspec.Struct, omit_defaults=True):
    record: msgspec.Raw
    sig: str = ""


def seal(record: WorkerRecord, *, fleet: str, secret: bytes | None) -> bytes:
    """The record's envelope as JSON; unsigned if there is no secret."""
    return wrap(msgspec.json.encode(record), _bound(fleet, record.id), secret)


def unseal(
    envelope: bytes, *, worker_id: str, fleet: str, secret: bytes | None, unsigned: bool = False
) -> WorkerRecord:
    """Check an envelope that was found under `worker_id` and return its record. Raises RecordRefused.

    `unsigned` as in `unwrap`.
    """
    raw = unwrap(envelope, _bound(fleet, worker_id), secret, unsigned=unsigned)
    record = decode(raw, WorkerRecord)
    if record.id != worker_id:
        raise RecordRefused(f"its record is that of {record.id!r}")
    return record


def wrap(raw: bytes, bound: bytes, secret: bytes | None) -> bytes:
    """JSON in an envelope; unsigned if there is no secret. `bound` says what the JSON is and whose: it is signed
    too, so that the envelope is good in that place alone."""
    signature = _sign(raw, bound, secret) if secret else ""
    return msgspec.json.encode(_Envelope(msgspec.Raw(raw), signature))


def unwrap(envelope: bytes, bound: bytes, secret: bytes | None, *, unsigned: bool = False) -> bytes:
    """The JSON of an envelope, checked. Raises RecordRefused.

    `unsigned` says that nobody but this user can write to the store (the embedded one behind its private
    socket): only then may a signature be missing, or stay unchecked where there is no secret. A wrong
    signature is refused wherever there is a secret.
    """
    if len(envelope) > MAX_ENVELOPE:
        raise RecordRefused(f"its record has {len(envelope)} bytes; {MAX_ENVELOPE} are allowed")
    outer = decode(envelope, _Envelope)
    raw = bytes(outer.record)
    if secret and outer.sig:
        if not hmac.compare_digest(outer.sig.encode(), _sign(raw, bound, secret).encode()):
            raise RecordRefused("its signature is wrong; is VLLAMA_FLEET_SECRET the same everywhere?")
    elif not unsigned:
        raise RecordRefused(
            "it is not signed; set VLLAMA_FLEET_SECRET for its agent"
            if secret
            else "its signature cannot be checked; set VLLAMA_FLEET_SECRET for this router"
        )
    return raw


def decode(raw: bytes, kind: type[T]) -> T:
    """JSON as a type. Raises RecordRefused."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefused(f"its record is damaged: {error}") from error


def _bound(fleet: str, worker_id: str) -> bytes:
    return f"vllama worker record\n{fleet}\n{worker_id}\n".encode()


def _sign(raw: bytes, bound: bytes, secret: bytes) -> str:
    return hmac.new(secret, bound + raw, hashlib.sha256).hexdigest()

"""Entries of what operators ask of a worker."""

from __future__ import annotations

import pytest

from vllama_pool.workers.registry.signature import RecordRefused
from vllama_pool.workers.registry.want import Want, decode_want, encode_want

SECRET = b"fleet secret"
WANT = Want(worker="a", drain=True, revision=7, asked=1.5)


def test_a_signed_entry_is_read_back_with_the_same_secret() -> None:
    entry = encode_want(WANT, fleet="f", secret=SECRET)
    assert entry.startswith(b"7\n")
    assert decode_want(entry, "a", fleet="f", secret=SECRET) == WANT


@pytest.mark.parametrize(
    ("worker", "fleet", "secret"), [("b", "f", SECRET), ("a", "g", SECRET), ("a", "f", b"another"), ("a", "f", None)]
)
def test_an_entry_of_another_worker_fleet_or_secret_is_refused(worker: str, fleet: str, secret: bytes | None) -> None:
    entry = encode_want(WANT, fleet="f", secret=SECRET)
    with pytest.raises(RecordRefused):
        decode_want(entry, worker, fleet=fleet, secret=secret)


def test_an_unsigned_entry_is_accepted_only_where_that_is_allowed() -> None:
    entry = encode_want(WANT, fleet="f", secret=None)
    assert decode_want(entry, "a", fleet="f", secret=None, allow_unsigned=True) == WANT
    with pytest.raises(RecordRefused, match="set VLLAMA_FLEET_SECRET"):
        decode_want(entry, "a", fleet="f", secret=SECRET)


@pytest.mark.parametrize("entry", [b"", b"7", b"7\n", b"7\n{}", b"\xff\n\xff", b"[]\n[]"])
def test_a_damaged_entry_is_refused(entry: bytes) -> None:
    with pytest.raises(RecordRefused):
        decode_want(entry, "a", fleet="f", secret=None, allow_unsigned=True)


def test_a_signed_entry_under_another_revision_is_refused() -> None:
    entry = encode_want(WANT, fleet="f", secret=SECRET)
    with pytest.raises(RecordRefused, match="revision"):
        decode_want(b"9" + entry[1:], "a", fleet="f", secret=SECRET)

"""Signed records of workers."""

from __future__ import annotations

import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import MAX_ENVELOPE, RecordRefused, sign_record, verify_record

SECRET = b"correct horse"
RECORD = WorkerRecord(
    id="gpu-1",
    generation=7,
    url="http://10.0.0.5:8100",
    models=(ModelInfo(name="llama3.2", template="{{ messages }}\n", defaults={"stop": ["</s>"]}),),
    slots=8,
)


def test_a_signed_record_is_verified_unchanged() -> None:
    envelope = sign_record(RECORD, fleet="f", secret=SECRET)
    assert verify_record(envelope, worker_id="gpu-1", fleet="f", secret=SECRET) == RECORD


@pytest.mark.parametrize(
    ("fleet", "worker_id", "secret"),
    [("other", "gpu-1", SECRET), ("f", "gpu-2", SECRET), ("f", "gpu-1", b"wrong horse")],
)
def test_a_signature_is_bound_to_fleet_worker_and_secret(fleet: str, worker_id: str, secret: bytes) -> None:
    envelope = sign_record(RECORD, fleet="f", secret=SECRET)
    with pytest.raises(RecordRefused, match="signature is wrong"):
        verify_record(envelope, worker_id=worker_id, fleet=fleet, secret=secret)


@pytest.mark.parametrize("allow_unsigned", [False, True])
def test_a_changed_record_is_refused_even_if_unsigned_ones_are_allowed(allow_unsigned: bool) -> None:
    envelope = sign_record(RECORD, fleet="f", secret=SECRET).replace(b"10.0.0.5", b"10.0.0.6")
    with pytest.raises(RecordRefused, match="signature is wrong"):
        verify_record(envelope, worker_id="gpu-1", fleet="f", secret=SECRET, allow_unsigned=allow_unsigned)


def test_unsigned_records_are_accepted_only_if_allowed() -> None:
    envelope = sign_record(RECORD, fleet="f", secret=None)
    assert verify_record(envelope, worker_id="gpu-1", fleet="f", secret=None, allow_unsigned=True) == RECORD
    assert verify_record(envelope, worker_id="gpu-1", fleet="f", secret=SECRET, allow_unsigned=True) == RECORD
    for secret in (None, SECRET):
        with pytest.raises(RecordRefused, match="VLLAMA_FLEET_SECRET"):
            verify_record(envelope, worker_id="gpu-1", fleet="f", secret=secret)


def test_a_router_without_a_secret_refuses_signed_records() -> None:
    envelope = sign_record(RECORD, fleet="f", secret=SECRET)
    with pytest.raises(RecordRefused, match="for this router"):
        verify_record(envelope, worker_id="gpu-1", fleet="f", secret=None)


def test_an_empty_secret_signs_nothing() -> None:
    envelope = sign_record(RECORD, fleet="f", secret=b"")
    with pytest.raises(RecordRefused):
        verify_record(envelope, worker_id="gpu-1", fleet="f", secret=b"")


def test_an_unsigned_record_under_another_id_is_refused() -> None:
    envelope = sign_record(RECORD, fleet="f", secret=None)
    with pytest.raises(RecordRefused, match="that of 'gpu-1'"):
        verify_record(envelope, worker_id="gpu-2", fleet="f", secret=None, allow_unsigned=True)


def test_fields_of_a_newer_version_are_signed_and_ignored() -> None:
    newer = json.loads(msgspec.json.encode(RECORD)) | {"v": 2, "colour": "blue"}
    raw = json.dumps(newer).encode()
    signature = hmac.new(SECRET, b"vllama worker record\nf\ngpu-1\n" + raw, hashlib.sha256).hexdigest()
    envelope = b'{"sig": "%s", "also": 1, "record": %s}' % (signature.encode(), raw)
    record = verify_record(envelope, worker_id="gpu-1", fleet="f", secret=SECRET)
    assert (record.v, record.slots) == (2, 8)
    with pytest.raises(RecordRefused):
        verify_record(envelope.replace(b"blue", b"pink"), worker_id="gpu-1", fleet="f", secret=SECRET)


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": 0},
        {"speed": -1},
        {"slots": -1},
        {"models": [{"name": "m", "modified_at": 1e300}]},
        {"models": [{"name": "m", "size": -1}]},
        {"models": [{"name": "m", "context_length": -5}]},
    ],
    ids=str,
)
def test_records_with_invalid_numbers_are_refused(wrong: dict[str, object]) -> None:
    record = {"id": "gpu-1", "generation": 1, "url": "http://10.0.0.5"} | wrong
    envelope = json.dumps({"record": record}).encode()
    with pytest.raises(RecordRefused, match="damaged"):
        verify_record(envelope, worker_id="gpu-1", fleet="f", secret=None, allow_unsigned=True)


def test_a_huge_envelope_is_not_parsed() -> None:
    with pytest.raises(RecordRefused, match="bytes"):
        verify_record(b" " * (MAX_ENVELOPE + 1), worker_id="a", fleet="f", secret=SECRET)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"record": text}).encode()))
def test_a_damaged_envelope_raises_only_record_refused(envelope: bytes) -> None:
    with pytest.raises(RecordRefused):
        verify_record(envelope, worker_id="gpu-1", fleet="f", secret=None, allow_unsigned=True)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_never_changes_an_accepted_record(position: int, bit: int) -> None:
    envelope = bytearray(sign_record(RECORD, fleet="f", secret=SECRET))
    envelope[position % len(envelope)] ^= 1 << bit
    try:
        record = verify_record(bytes(envelope), worker_id="gpu-1", fleet="f", secret=SECRET)
    except RecordRefused:
        return
    assert record == RECORD  # the bit was outside the signed JSON

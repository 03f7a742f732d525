"""Signed entries and digests of virtual models."""

from __future__ import annotations

import msgspec
import pytest

from vllama_pool.workers.registry.record import WorkerRecord
from vllama_pool.workers.registry.signature import RecordRefused, sign_record
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of, made_digest, sign_model, verify_model

SECRET = b"fleet secret"
KEY = "registry.ollama.ai/library/v:latest"
MODEL = VirtualModel(
    name="V:latest",
    revision=3,
    base="m:latest",
    system="be brief",
    options={"temperature": 0.5, "stop": ["x"]},
    messages=({"role": "user", "content": "hi"},),
)


def test_a_signed_model_is_verified_unchanged() -> None:
    envelope = sign_model(MODEL, KEY, fleet="f", secret=SECRET)
    assert verify_model(envelope, KEY, fleet="f", secret=SECRET) == MODEL


def test_a_tombstone_needs_no_base() -> None:
    gone = VirtualModel(name="v:latest", revision=4, deleted=True)
    assert verify_model(sign_model(gone, KEY, fleet="f", secret=SECRET), KEY, fleet="f", secret=SECRET) == gone


@pytest.mark.parametrize(
    ("fleet", "secret", "text"),
    [("f", b"another secret", "signature is wrong"), ("f", None, "not signed"), ("g", SECRET, "signature is wrong")],
)
def test_a_model_signed_without_the_fleets_secret_is_refused(fleet: str, secret: bytes | None, text: str) -> None:
    with pytest.raises(RecordRefused, match=text):
        verify_model(sign_model(MODEL, KEY, fleet=fleet, secret=secret), KEY, fleet="f", secret=SECRET)


def test_a_models_entry_is_invalid_under_another_name() -> None:
    other = "registry.ollama.ai/library/other:latest"
    with pytest.raises(RecordRefused, match="signature is wrong"):
        verify_model(sign_model(MODEL, KEY, fleet="f", secret=SECRET), other, fleet="f", secret=SECRET)
    with pytest.raises(RecordRefused, match="that of 'V:latest'"):
        verify_model(
            sign_model(MODEL, other, fleet="f", secret=None), other, fleet="f", secret=None, allow_unsigned=True
        )


def test_a_workers_record_is_not_accepted_as_a_model() -> None:
    record = WorkerRecord(id=KEY, generation=1, url="http://127.0.0.1:1")
    with pytest.raises(RecordRefused, match="signature is wrong"):
        verify_model(sign_record(record, fleet="f", secret=SECRET), KEY, fleet="f", secret=SECRET)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"record":{}}', b'{"record":{"name":"v","revision":0,"base":"m"}}', b"\xff", b"[" * 9999]
)
def test_a_damaged_model_is_refused(raw: bytes) -> None:
    with pytest.raises(RecordRefused):
        verify_model(raw, KEY, fleet="f", secret=None, allow_unsigned=True)


def test_a_model_without_a_base_is_refused() -> None:
    empty = VirtualModel(name="v:latest", revision=1)
    with pytest.raises(RecordRefused, match="names no base model"):
        verify_model(sign_model(empty, KEY, fleet="f", secret=SECRET), KEY, fleet="f", secret=SECRET)


def test_a_models_digest_covers_its_base_and_its_parts() -> None:
    digest = made_digest(MODEL, "b" * 64)
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")
    renamed = VirtualModel(
        name="other:latest",
        revision=9,
        base="m:latest",
        changed=5.0,
        system="be brief",
        options={"stop": ["x"], "temperature": 0.5},
        messages=MODEL.messages,
    )
    assert made_digest(renamed, "b" * 64) == digest
    assert made_digest(msgspec.structs.replace(renamed, parts_digest=digest_of(renamed.parts)), "b" * 64) == digest
    assert made_digest(MODEL, "c" * 64) != digest
    assert made_digest(VirtualModel(name="v:latest", revision=1, base="m:latest"), "b" * 64) == ""

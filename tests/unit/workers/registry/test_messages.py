"""The encoding of beats and events, and the registry's keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.workers.registry.keys import Keys, check_worker_id
from vllama_pool.workers.registry.messages import (
    Beat,
    ModelAck,
    ModelChanged,
    Version,
    WorkerBeat,
    WorkerDown,
    WorkerUp,
    decode_beat,
    decode_event,
    encode_ack,
    encode_beat,
)
from vllama_pool.workers.registry.record import EngineExit, LoadReport, WorkerState

EXITS = st.builds(
    EngineExit,
    number=st.integers(0, 1000),
    crashed=st.booleans(),
    cause=st.text(st.characters(categories=["L", "N", "P"], include_characters=" "), max_size=200),
)
LOADS = st.builds(
    LoadReport,
    state=st.sampled_from(WorkerState),
    running=st.integers(0, 10_000),
    waiting=st.integers(0, 10_000),
    kv_usage=st.floats(0, 1).map(lambda x: round(x, 3)),
    tokens_per_second=st.floats(0, 1e6).map(lambda x: round(x, 1)),
    restarts=st.integers(0, 1000),
    note=st.text(st.characters(categories=["L", "N", "P"], include_characters=" "), max_size=200),
    exit=st.none() | EXITS,
)
REPORTS = st.builds(Beat, st.integers(0, 2**63), st.integers(0, 2**40), LOADS)


@given(REPORTS)
def test_a_beat_survives_encoding_and_decoding(report: Beat) -> None:
    line = encode_beat(report)
    assert decode_beat(line.encode()) == report


def test_a_note_is_encoded_as_one_short_line() -> None:
    report = Beat(1, 2, LoadReport(note="Traceback:\n\tboom\x1b[31m: " + "x" * 500))
    line = encode_beat(report)
    assert "\n" not in line
    read = decode_beat(line.encode())
    assert read is not None
    assert read.load.note.startswith("Traceback:  boom [31m: xxx")
    assert len(read.load.note) == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1:2",
        b"x:2:ready:0:0:0:0:0:",
        b"\xff:2:ready:0:0:0:0:0:",
        b"1:2:ready:0:0:nan:0:0:",
        b"1:2:ready:-1:0:0:0:0:",
        b"1:2:ready:0:0:0:inf:0:",
        b"-1:2:ready:0:0:0:0:0:",
    ],
)
def test_a_damaged_beat_is_decoded_as_none(data: bytes) -> None:
    assert decode_beat(data) is None


def test_a_state_of_a_newer_version_is_decoded_as_unknown() -> None:
    beat = decode_beat(b"1:2:hovering:3:0:0:0:0:a note")
    assert beat == Beat(1, 2, LoadReport(state=WorkerState.UNKNOWN, running=3, note="a note"))


def test_every_kind_of_event_is_decoded() -> None:
    report = Beat(3, 1, LoadReport(note="a: b"))
    line = encode_beat(report).encode()
    assert decode_event(b"load\ngpu-1\n" + line) == WorkerBeat("gpu-1", report)
    assert decode_event(b"up\nabc\n5\ngpu-1\n" + line + b'\n{"record":1}') == WorkerUp(
        "gpu-1", Version("abc", 5), report, b'{"record":1}'
    )
    assert decode_event(b"down\nabc\n6\ngpu-1\n3") == WorkerDown("gpu-1", Version("abc", 6), 3)
    assert decode_event(b"model\n1\ne:1:1\ne:2:1\nh/l/v:latest\n{\n}") == ModelChanged(
        True, "e:1:1", "e:2:1", "h/l/v:latest", b"{\n}"
    )
    assert decode_event(encode_ack(ModelAck("e:2:1", "r")).encode()) == ModelAck("e:2:1", "r")


@given(st.binary(max_size=80) | st.builds(b"\n".join, st.lists(st.sampled_from([b"up", b"down", b"load", b"1", b""]))))
def test_a_damaged_event_is_decoded_as_none(data: bytes) -> None:
    event = decode_event(data)
    assert event is None or isinstance(event, WorkerDown)


def test_keys_of_a_fleet_share_one_hash_tag() -> None:
    keys = Keys.of("team-a")
    assert keys.w == "{vllama:team-a}:w"
    assert keys.ev == "{vllama:team-a}:ev"


@pytest.mark.parametrize("fleet", ["", "a}b", "a b", "a:b", "x" * 65])
def test_a_fleet_name_cannot_break_the_hash_tag(fleet: str) -> None:
    with pytest.raises(ValueError, match="fleet name"):
        Keys.of(fleet)


@pytest.mark.parametrize("worker_id", ["", "a\nb", "a b", "static/x", "-a", "x" * 129])
def test_a_worker_id_cannot_break_the_framing(worker_id: str) -> None:
    with pytest.raises(ValueError, match="worker id"):
        check_worker_id(worker_id)

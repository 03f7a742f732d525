"""Matching of faults to requests."""

from __future__ import annotations

import msgspec
import pytest

from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.faults import Cut, Die, FaultPlan, Freeze, Refuse, Slow, Status, parse

CHAT = "/v1/chat/completions"


def test_a_fault_hits_as_often_as_it_says() -> None:
    faults = FaultPlan([Status(status=503, count=2)])
    assert [faults.next_for(CHAT, b"") is not None for _ in range(4)] == [True, True, False, False]


def test_without_a_count_it_hits_for_ever() -> None:
    faults = FaultPlan([Cut(after_tokens=1)])
    assert all(faults.next_for(CHAT, b"") for _ in range(10))


def test_the_first_matching_fault_applies() -> None:
    once, always = Status(status=500, count=1), Cut()
    faults = FaultPlan([once, always])
    assert [faults.next_for(CHAT, b"") for _ in range(3)] == [once, always, always]


def test_a_marker_and_a_path_choose_the_requests() -> None:
    faults = FaultPlan([Die(marker="poison"), Status(paths=("/health",))])
    assert faults.next_for(CHAT, b"all is well") is None
    assert isinstance(faults.next_for(CHAT, b"some poison in it"), Die)
    assert isinstance(faults.next_for("/health", b""), Status)
    assert faults.next_for("/v1/models", b"poison") is None


def test_states_of_the_worker_hit_no_request() -> None:
    faults = FaultPlan([Slow(factor=3.0), Freeze(seconds=1.0)])
    assert faults.next_for(CHAT, b"") is None
    assert faults.slowdown == 3.0
    assert faults.active(Refuse) is None
    faults.replace([])
    assert faults.slowdown == 1.0


def test_faults_come_as_json() -> None:
    assert parse('{"kind": "cut", "after_tokens": 5, "count": 1}') == [Cut(after_tokens=5, count=1)]
    assert parse('[{"kind": "refuse"}, {"kind": "status", "status": 429}]') == [Refuse(), Status(status=429)]
    every: list[faults.Fault] = [
        kind() for kind in (faults.Hang, faults.Error, faults.Empty, faults.Stall, faults.Garbage, faults.Split)
    ]
    assert parse(msgspec.json.encode(every)) == every


@pytest.mark.parametrize("text", ['{"kind": "explode"}', '{"kind": "cut", "after": 5}', "[1]", "{"])
def test_an_invalid_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)

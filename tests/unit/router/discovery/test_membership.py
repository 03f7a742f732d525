"""Membership without I/O: time is a number."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.registry.membership_sink import Recorder
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.discovery.membership import (
    FORGET_AFTER,
    GRACE,
    LONGEST_STEP,
    TTL,
    Liveness,
    Membership,
    ProbeAnswer,
)
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.messages import Beat, Snapshot, Version, decode_beat
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord


class Fleet:
    """A membership, its registry, and a clock that is moved by hand."""

    def __init__(self, *workers: str, pool: Pool | None = None) -> None:
        self.pool = Recorder()
        self.members = Membership(self.pool if pool is None else pool)
        self.now = 100.0
        self.epoch, self.seq, self.collected = "e1", 0, 0
        self.found: dict[str, Discovered] = {}
        self.beats: dict[str, Beat] = {}
        self.counts: dict[str, int] = {}
        for worker in workers:
            self.register(worker)
        self.poll()

    def register(self, worker: str, generation: int = 1, url: str = "http://127.0.0.1:1") -> None:
        self.seq += 1
        record = WorkerRecord(id=worker, generation=generation, url=url)
        self.found[worker] = Discovered(record, Endpoint("127.0.0.1", 1))
        self.beat(worker, generation)

    def beat(self, worker: str, generation: int | None = None, load: LoadReport | None = None) -> Beat:
        self.counts[worker] = self.counts.get(worker, 0) + 1
        if generation is None:
            generation = self.found[worker].record.generation
        self.beats[worker] = Beat(generation, self.counts[worker], load or LoadReport())
        return self.beats[worker]

    def leave(self, worker: str) -> None:
        self.seq += 1
        del self.found[worker], self.beats[worker]

    def collect(self, worker: str) -> None:
        self.collected += 1
        self.leave(worker)

    def flush(self, epoch: str = "e2") -> None:
        self.epoch, self.seq, self.collected = epoch, 0, 0
        self.found.clear()
        self.beats.clear()

    @property
    def version(self) -> Version:
        return Version(self.epoch, self.seq)

    def snapshot(self, records: Mapping[str, bytes] | None) -> Snapshot:
        return Snapshot(self.version, self.collected, records, dict(self.beats))

    def poll(self, *, full: bool = False) -> bool:
        since = self.members.version
        changed = full or since != self.version
        records = dict.fromkeys(self.found, b"") if changed else None
        return self.members.polled(since, self.snapshot(records), dict(self.found) if changed else {}, self.now)

    def live(self, seconds: float, *beating: str, answer: ProbeAnswer | None = None) -> None:
        """Advance in steps of 0.5 s: poll at each step, and let living workers beat each second."""
        for step in range(round(seconds * 2)):
            self.now += 0.5
            if step % 2:
                for worker in beating:
                    self.beat(worker)
            self.poll()
            if answer:
                for found in self.members.to_probe:
                    self.members.probed(found.record.id, answer, self.now)

    def liveness(self, worker: str) -> Liveness | None:
        member = self.members.get(worker)
        return member.liveness if member else None


# --- joining and leaving ---


def test_registered_workers_join_the_pool_with_a_poll() -> None:
    fleet = Fleet("a", "b")
    assert set(fleet.pool.known) == {"a", "b"}
    assert fleet.members.version == fleet.version


def test_an_event_alone_adds_a_worker() -> None:
    fleet = Fleet("a")
    fleet.register("b")
    assert not fleet.members.joined(fleet.version, "b", fleet.found["b"], fleet.beats["b"], fleet.now)
    assert set(fleet.pool.known) == {"a", "b"}
    puts = fleet.pool.puts
    assert not fleet.poll()
    assert fleet.pool.puts == puts


def test_a_gap_in_the_events_asks_for_a_poll() -> None:
    fleet = Fleet("a")
    fleet.register("b")
    fleet.register("c")
    assert fleet.members.joined(fleet.version, "c", fleet.found["c"], fleet.beats["c"], fleet.now)
    assert set(fleet.pool.known) == {"a"}
    fleet.poll()
    assert set(fleet.pool.known) == {"a", "b", "c"}


def test_an_event_that_was_overtaken_by_a_poll_changes_nothing() -> None:
    fleet = Fleet("a")
    fleet.register("b")
    at, found, report = fleet.version, fleet.found["b"], fleet.beats["b"]
    fleet.leave("b")
    fleet.poll()
    assert not fleet.members.joined(at, "b", found, report, fleet.now)
    assert set(fleet.pool.known) == {"a"}


def test_a_poll_that_was_overtaken_by_an_event_changes_nothing() -> None:
    fleet = Fleet("a", "b")
    since, old = fleet.members.version, fleet.snapshot(dict.fromkeys(fleet.found, b""))
    found = dict(fleet.found)
    fleet.leave("b")
    fleet.members.left(fleet.version, "b", 1)
    assert fleet.members.polled(since, old, found, fleet.now)
    assert set(fleet.pool.known) == {"a"}


def test_a_leave_removes_a_worker_at_once_by_event_and_by_poll() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.leave("b")
    fleet.members.left(fleet.version, "b", 1)
    assert set(fleet.pool.known) == {"a", "c"}
    fleet.leave("c")
    fleet.poll()
    assert set(fleet.pool.known) == {"a"}


def test_a_leave_after_a_flush_that_no_poll_has_seen_removes_the_worker_at_once() -> None:
    """The records after a flush lack workers that have not registered again, too."""
    fleet = Fleet("a", "b")
    fleet.flush("e2")
    for worker_id in ("a", "b"):
        fleet.register(worker_id)
    fleet.leave("b")
    assert fleet.members.left(fleet.version, "b", 1)
    fleet.poll()
    assert set(fleet.pool.known) == {"a"}


def test_a_leave_of_an_older_generation_does_not_remove_the_newer() -> None:
    fleet = Fleet("a")
    fleet.register("a", generation=2)
    fleet.poll()
    fleet.seq += 1
    fleet.members.left(fleet.version, "a", 1)
    assert set(fleet.pool.known) == {"a"}


def test_a_beat_of_an_unknown_worker_asks_for_a_poll_once() -> None:
    fleet = Fleet("a")
    stranger = Beat(1, 1, LoadReport())
    assert fleet.members.beat_received("x", stranger, fleet.now)
    fleet.beats["x"] = stranger  # its record is one that may not be used
    fleet.poll(full=True)
    assert not fleet.members.beat_received("x", Beat(1, 2, LoadReport()), fleet.now)
    assert not fleet.poll()
    assert set(fleet.pool.known) == {"a"}


def test_a_refused_registration_does_not_ask_for_polls() -> None:
    fleet = Fleet("a")
    fleet.seq += 1
    fleet.beats["x"] = Beat(1, 1, LoadReport())
    assert not fleet.members.joined(fleet.version, "x", None, fleet.beats["x"], fleet.now)
    assert not fleet.members.beat_received("x", Beat(1, 2, LoadReport()), fleet.now)
    assert not fleet.poll()


def test_a_newer_generation_replaces_an_older_one_and_never_the_reverse() -> None:
    fleet = Fleet("a")
    fleet.register("a", generation=5, url="http://127.0.0.1:5")
    fleet.poll()
    assert fleet.pool.known["a"].record.url == "http://127.0.0.1:5"
    fleet.flush()  # the registry no longer knows which is newer
    fleet.register("a", generation=4, url="http://127.0.0.1:4")
    fleet.poll()
    assert fleet.pool.known["a"].record.url == "http://127.0.0.1:5"
    assert not fleet.members.beat_received("a", Beat(4, 99, LoadReport(running=9)), fleet.now)
    assert fleet.pool.loads.get("a") != LoadReport(running=9)


def test_a_lower_generation_may_replace_a_worker_that_is_down() -> None:
    fleet = Fleet("a", "b")
    fleet.live(TTL + 1, "b", answer=ProbeAnswer.GONE)
    fleet.register("a", generation=0, url="http://127.0.0.1:9")
    fleet.poll()
    assert fleet.pool.known["a"].record.url == "http://127.0.0.1:9"
    assert fleet.liveness("a") is Liveness.ALIVE


def test_load_reports_reach_the_pool_by_event_and_by_poll() -> None:
    fleet = Fleet("a")
    fleet.members.beat_received("a", fleet.beat("a", load=LoadReport(running=3)), fleet.now)
    assert fleet.pool.loads["a"] == LoadReport(running=3)
    fleet.beat("a", load=LoadReport(running=4))
    fleet.poll()
    assert fleet.pool.loads["a"] == LoadReport(running=4)


def test_a_worker_in_a_state_of_a_newer_version_is_alive_but_gets_no_requests() -> None:
    pool = Pool(lambda: 100.0)
    fleet = Fleet("a", pool=pool)
    beat = decode_beat(b"1:7:hovering:0:0:0:0:0:")
    assert beat is not None
    fleet.now += TTL
    fleet.members.beat_received("a", beat, fleet.now)
    worker = pool.get("a")
    assert worker is not None
    assert fleet.liveness("a") is Liveness.ALIVE
    assert not worker.is_available(fleet.now)


# --- silence ---


def test_a_beating_worker_is_never_late() -> None:
    fleet = Fleet("a")
    for _ in range(100):
        fleet.live(1, "a")
        assert not fleet.members.to_probe


@pytest.mark.parametrize("answer", [ProbeAnswer.GONE, ProbeAnswer.NONE])
def test_a_worker_without_beats_or_answer_is_down_after_the_ttl(answer: ProbeAnswer) -> None:
    fleet = Fleet("a", "b", "c")
    started = fleet.now
    while "a" not in fleet.pool.down:
        fleet.live(0.5, "b", "c", answer=answer)
        fleet.beat("b")
        fleet.beat("c")
        assert fleet.now - started <= TTL + 0.5
    assert fleet.liveness("b") is Liveness.ALIVE
    assert "a" in fleet.pool.known  # not deleted


def test_missing_beats_alone_do_not_take_a_worker_down() -> None:
    fleet = Fleet("a", "b")
    fleet.live(2 * FORGET_AFTER, "b", answer=ProbeAnswer.UP)
    assert not fleet.pool.down
    fleet = Fleet("a", "b")
    fleet.live(10, "b")  # no probe has finished
    assert not fleet.pool.down


def test_a_failed_probe_marks_a_late_worker_suspect_before_it_is_down() -> None:
    fleet = Fleet("a", "b")
    fleet.live(2, "b", answer=ProbeAnswer.GONE)
    assert (fleet.pool.suspect, fleet.pool.down) == ({"a"}, set())


def test_a_beat_brings_a_down_worker_back() -> None:
    fleet = Fleet("a", "b")
    fleet.live(5, "b", answer=ProbeAnswer.NONE)
    assert fleet.pool.down == {"a"}
    fleet.members.beat_received("a", fleet.beat("a"), fleet.now)
    assert fleet.liveness("a") is Liveness.ALIVE
    assert not fleet.pool.down


def test_a_worker_that_failed_a_probe_is_probed_until_it_answers_despite_beats() -> None:
    fleet = Fleet("a", "b")
    fleet.live(30, "b", answer=ProbeAnswer.NONE)
    fleet.live(3, "a", "b", answer=ProbeAnswer.NONE)
    assert fleet.liveness("a") is Liveness.ALIVE
    assert [found.record.id for found in fleet.members.to_probe] == ["a"]
    assert (fleet.pool.suspect, fleet.pool.down) == ({"a"}, set())
    fleet.members.probed("a", ProbeAnswer.UP, fleet.now)
    assert not fleet.members.to_probe
    assert not fleet.pool.suspect


def test_a_good_probe_brings_back_a_worker_whose_agent_is_cut_off() -> None:
    fleet = Fleet("a", "b")
    fleet.live(5, "b", answer=ProbeAnswer.NONE)
    fleet.members.probed("a", ProbeAnswer.UP, fleet.now)
    assert fleet.liveness("a") is Liveness.LATE
    assert not fleet.pool.down


def test_the_only_worker_can_be_down() -> None:
    fleet = Fleet("a")
    fleet.live(4, answer=ProbeAnswer.NONE)
    assert fleet.pool.down == {"a"}


def test_more_than_half_of_a_fleet_late_at_once_stays_up() -> None:
    fleet = Fleet("a", "b", "c", "d", "e")
    fleet.live(20, "d", "e", answer=ProbeAnswer.NONE)
    assert not fleet.pool.down
    fleet.live(0.5, "d", "e", answer=ProbeAnswer.GONE)  # a refused connection is conclusive
    assert fleet.pool.down == {"a", "b", "c"}


def test_half_of_a_fleet_late_at_once_goes_down() -> None:
    fleet = Fleet("a", "b", "c", "d")
    fleet.live(5, "c", "d", answer=ProbeAnswer.NONE)
    assert fleet.pool.down == {"a", "b"}


def test_down_workers_are_removed_after_the_registry_collected_them() -> None:
    fleet = Fleet("a", "b")
    fleet.live(30, "b", answer=ProbeAnswer.GONE)
    fleet.live(35, "b", answer=ProbeAnswer.GONE)
    assert "a" in fleet.pool.known  # its record is still there
    fleet.collect("a")
    fleet.live(1, "b")
    assert set(fleet.pool.known) == {"b"}


# --- the registry's own troubles ---


def test_a_jump_of_the_registrys_clock_removes_no_worker() -> None:
    fleet = Fleet("a", "b")
    fleet.collect("a")
    fleet.collect("b")
    fleet.poll()
    assert set(fleet.pool.known) == {"a", "b"}
    fleet.live(1)
    fleet.register("a")
    fleet.register("b")
    fleet.live(10, "a", "b", answer=ProbeAnswer.GONE)
    assert not fleet.pool.down


def test_no_worker_ages_while_the_registry_is_unreachable() -> None:
    fleet = Fleet("a", "b")
    fleet.members.poll_failed()
    assert not fleet.members.feed_up
    fleet.now += 3600
    assert not fleet.members.to_probe
    fleet.poll()
    assert not fleet.members.to_probe
    assert fleet.members.feed_up


def test_after_an_outage_dead_workers_go_down_when_the_grace_period_ends() -> None:
    fleet = Fleet("a", "b")
    fleet.members.poll_failed()
    fleet.now += 10
    fleet.live(GRACE, "b", answer=ProbeAnswer.GONE)
    assert not fleet.pool.down
    fleet.live(TTL + 1, "b", answer=ProbeAnswer.GONE)
    assert fleet.pool.down == {"a"}


def test_a_router_started_during_an_outage_grants_the_same_grace_period() -> None:
    fleet = Fleet()
    fleet.members = Membership(fleet.pool)
    fleet.members.poll_failed()
    fleet.register("a")
    fleet.live(GRACE - 1, answer=ProbeAnswer.GONE)
    assert not fleet.pool.down


def test_a_registry_flush_removes_no_worker() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.flush("")
    fleet.live(1)
    assert set(fleet.pool.known) == {"a", "b", "c"}
    fleet.epoch = "e2"
    fleet.register("a")
    fleet.live(1, "a")
    fleet.register("b")
    fleet.live(GRACE - 1, "a", "b", answer=ProbeAnswer.GONE)
    assert set(fleet.pool.known) == {"a", "b", "c"}
    assert not fleet.pool.down
    fleet.live(TTL + 1, "a", "b", answer=ProbeAnswer.GONE)
    assert fleet.pool.down == {"c"}


def test_a_flush_is_not_a_leave_even_if_workers_register_before_the_next_poll() -> None:
    fleet = Fleet("a", "b")
    fleet.flush("e2")
    for _ in range(10):
        fleet.register("b")
    fleet.poll()
    assert set(fleet.pool.known) == {"a", "b"}


def test_workers_missing_after_an_outage_have_not_left() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.members.poll_failed()
    del fleet.found["c"], fleet.beats["c"]  # as in a promoted replica that lacks c
    fleet.register("b")
    fleet.poll()
    assert set(fleet.pool.known) == {"a", "b", "c"}


def test_late_workers_do_not_go_down_while_the_registry_is_unreachable() -> None:
    fleet = Fleet("a", "b")
    fleet.live(TTL + 1, "b", answer=ProbeAnswer.UP)
    fleet.members.poll_failed()
    fleet.now += 10
    fleet.members.probed("a", ProbeAnswer.GONE, fleet.now)
    assert (fleet.pool.suspect, fleet.pool.down) == ({"a"}, set())
    fleet.live(GRACE - 1, "b", answer=ProbeAnswer.GONE)  # nor until its agent could have found it again
    assert not fleet.pool.down


def test_the_first_worker_of_an_empty_registry_starts_no_grace_period() -> None:
    fleet = Fleet()
    fleet.members = Membership(fleet.pool)
    fleet.epoch = ""
    fleet.poll()
    fleet.epoch = "e1"
    fleet.register("a")
    fleet.poll()
    fleet.live(TTL + 1, answer=ProbeAnswer.GONE)
    assert fleet.pool.down == {"a"}


def test_a_lagging_registry_replica_removes_no_worker() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.seq -= 1  # as in a promoted replica that lacks c
    del fleet.found["c"], fleet.beats["c"]
    fleet.poll()
    assert set(fleet.pool.known) == {"a", "b", "c"}
    assert not fleet.pool.down


def test_a_pause_of_this_process_advances_feed_time_by_one_step() -> None:
    fleet = Fleet("a", "b")
    fleet.live(0.5)
    fleet.now += 60
    fleet.poll()
    assert not fleet.members.to_probe
    assert LONGEST_STEP + 0.5 + 1.1 < TTL  # a beat's interval and a pause together stay below it


def test_a_restored_worker_that_does_not_register_leaves_though_it_answers() -> None:
    """Its server may belong to somebody else by now."""
    fleet = Fleet("a")
    record = WorkerRecord(id="old", generation=1, url="http://127.0.0.1:2")
    fleet.members.restore(Discovered(record, Endpoint("127.0.0.1", 2)))
    fleet.members.probed("old", ProbeAnswer.UP, fleet.now)
    assert "old" in fleet.pool.known
    for _ in range(int(FORGET_AFTER / LONGEST_STEP) + 2):
        fleet.now += LONGEST_STEP
        fleet.beat("a")
        fleet.poll()
    assert "old" not in fleet.pool.known
    assert "a" in fleet.pool.known

"""The pool: names and replicas, counters across changes of records, speeds, unknown workers."""

import pytest

from tests.support.balance import RESTARTING, Clock, found, ids, pool_of, worker_in
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored
from vllama_pool.router.balance.pool import MAX_DEPARTED_NAMES
from vllama_pool.router.errors import Lost
from vllama_pool.router.telemetry.worker_view import view_workers
from vllama_pool.workers.registry.record import LoadReport, ModelInfo


def test_counters_health_and_slow_start_survive_a_renewed_record() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    lease = pool.lease(worker_in(pool, "a"))
    pool.lease(worker_in(pool, "a")).release(Errored(Lost("refused")))
    pool.put(found("a", slots=16), found("c"))
    pool.remove("b")
    a = worker_in(pool, "a")
    assert (a.in_flight, a.record.slots) == (1, 16)
    assert a.is_suspect(clock())
    assert a.speed.weight(clock()) == 1
    assert worker_in(pool, "c").speed.weight(clock()) < 1
    assert pool.get("b") is None
    lease.release(Completed(1))
    assert pool.in_flight == 0


def test_a_worker_that_returns_keeps_the_count_of_its_running_requests() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    first, second = (pool.lease(worker_in(pool, "a")) for _ in range(2))
    pool.remove("a")
    assert pool.replicas_for("m") == ()
    assert pool.in_flight == 2
    first.release(Abandoned())
    pool.put(found("a", generation=2))
    assert worker_in(pool, "a").in_flight == 1
    second.release(Abandoned())
    assert pool.in_flight == 0


def test_names_match_exactly_first_and_then_by_ollamas_rules() -> None:
    pool = pool_of(
        Clock(),
        found("a", "smollm2:135m"),
        found("b", "Qwen/Qwen3-8B"),
        found("c", "qwen/qwen3-8b"),
        found("d", "/models/llama"),
        found("e", "llama3.2"),
    )
    assert ids(pool.replicas_for("SmolLM2:135M")) == ["a"]
    assert ids(pool.replicas_for("Qwen/Qwen3-8B")) == ["b"]
    assert ids(pool.replicas_for("qwen/qwen3-8b")) == ["c"]
    assert ids(pool.replicas_for("Qwen/Qwen3-8B:latest")) == ["b", "c"]
    assert ids(pool.replicas_for("/models/llama")) == ["d"]
    assert ids(pool.replicas_for("llama3.2:latest")) == ["e"]
    assert pool.replicas_for("llama3.2:3b") == ()
    assert pool.replicas_for("") == ()


def test_a_worker_with_several_spellings_of_a_name_is_listed_once() -> None:
    model = ModelInfo(name="llama3.2", aliases=("llama3.2:latest", "meta/llama"))
    pool = pool_of(Clock(), found("a", model), found("b", "llama3.2"))
    assert ids(pool.replicas_for("llama3.2")) == ["a", "b"]
    assert ids(pool.replicas_for("meta/llama")) == ["a"]
    assert pool.served() == ("llama3.2",)


def test_an_adapter_is_a_separate_model() -> None:
    pool = pool_of(Clock(), found("a", "base", ModelInfo(name="sql", parent="base")), found("b", "base"))
    assert ids(pool.replicas_for("sql")) == ["a"]
    assert ids(pool.replicas_for("base")) == ["a", "b"]
    assert pool.served() == ("base", "sql")


def test_names_of_removed_workers_are_still_known() -> None:
    pool = pool_of(Clock(), found("a", "Old"))
    pool.remove("a")
    assert pool.ever_served("old:latest")
    assert not pool.ever_served("new")


def test_calls_about_unknown_workers_are_ignored() -> None:
    pool = pool_of(Clock(), found("a"))
    assert not pool.report("unknown", LoadReport())
    pool.mark_suspect("unknown")
    pool.mark_down("unknown")
    pool.mark_up("unknown")
    pool.remove("unknown")
    assert len(pool) == 1


def test_a_down_worker_is_available_after_a_report_probe_or_record() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    a = worker_in(pool, "a")
    for back in (
        lambda: pool.report("a", LoadReport(running=1)),
        lambda: pool.mark_up("a"),
        lambda: pool.put(found("a", load=LoadReport())),
    ):
        pool.mark_down("a")
        assert not a.is_available(clock())
        back()
        assert a.is_available(clock())


def test_measured_speeds_are_relative_within_a_model() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"), found("c"), found("other", "n"))
    for _ in range(60):
        clock.advance(1)
        for worker_id, rate in (("a", 100), ("b", 200), ("c", 400), ("other", 10_000)):
            pool.report(worker_id, LoadReport(running=8, tokens_per_second=rate))
    clock.advance(1)
    pool.report("a", LoadReport(running=8, tokens_per_second=100))
    assert [worker.speed.full for worker in pool] == pytest.approx([0.5, 1.0, 2.0, 1.0], abs=0.01)


def test_the_admin_view_lists_every_worker_with_its_state() -> None:
    clock = Clock()
    pool = pool_of(clock, found("b", load=RESTARTING), found("a", load=LoadReport(running=2, waiting=1, kv_usage=0.5)))
    pool.lease(worker_in(pool, "a"))
    pool.mark_suspect("a")
    pool.mark_down("b")
    first, second = view_workers(pool, clock())
    assert (first.id, first.state, first.breaker, first.in_flight) == ("a", "ready", "suspect", 1)
    assert (first.url, first.models, first.running, first.slots) == ("http://a:8100", ("m",), 2, 8)
    assert (second.id, second.state, second.note) == ("b", "down", "CUDA out of memory")


def test_a_worker_that_joins_or_leaves_changes_the_groups_of_its_names_only() -> None:
    pool = pool_of(Clock(), found("a"), found("b", "n"))
    untouched = pool.group_for("n")
    shared, version = pool.group_for("m"), pool.version
    assert shared is not None
    pool.put(found("c"))
    pool.put(found("c", slots=16, load=LoadReport(running=1)))
    assert pool.version == version + 1, "only models change it"
    assert ids(shared.replicas) == ["a", "c"]
    pool.remove("c")
    assert pool.group_for("n") is untouched
    assert ids(shared.replicas) == ["a"]
    assert pool.version == version + 2


def test_a_worker_whose_models_change_stays_in_the_groups_that_it_keeps() -> None:
    pool = pool_of(Clock(), found("a", "m", "old"), found("b"))
    kept = pool.group_for("m")
    assert kept is not None
    pool.put(found("a", ModelInfo(name="m", digest="d" * 64), "new"))
    assert pool.group_for("m") is kept
    assert [(replica.worker.id, replica.model.digest) for replica in kept.replicas] == [("a", "d" * 64), ("b", "")]
    assert kept.info.digest
    assert (pool.replicas_for("old"), ids(pool.replicas_for("new"))) == ((), ["a"])
    assert (pool.ever_served("OLD:latest"), pool.ever_served("new"), pool.served()) == ("old", "new", ("m", "new"))


def test_the_oldest_known_names_are_forgotten_first() -> None:
    pool = pool_of(Clock(), found("a", "old"))
    pool.remove("a")
    assert pool.ever_served("OLD:latest")
    for number in range(MAX_DEPARTED_NAMES):
        pool.put(found("b", f"model-{number}"))
    assert not pool.ever_served("old")
    assert pool.ever_served(f"model-{MAX_DEPARTED_NAMES - 1}")

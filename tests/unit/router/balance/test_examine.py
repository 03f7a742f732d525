"""The terms of a choice: why workers are left out, and what the policy sees of the others."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import DRAINING, Clock, found, group, pool_of, tagged, worker_in
from vllama_pool.config.routing.model_entry import Selector
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.examine import CandidateView, examine, rejections
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.lease import Errored
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.prefix_affinity import PrefixAffinity
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import choose, peek
from vllama_pool.router.errors import Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerState


def views(
    groups: tuple[Group, ...],
    clock: Clock,
    demand: Demand = PLAIN,
    tried: tuple[str, ...] = (),
    policy: Policy = least_load,
) -> dict[str, CandidateView]:
    return {view.worker: view for view in examine(groups, tried, clock(), policy, demand)}


def test_a_view_has_every_term_of_the_score() -> None:
    clock = Clock()
    pool = pool_of(clock, found("old", slots=4, load=LoadReport(running=3)))
    pool.put(found("new", ModelInfo(name="m", context_length=0), speed=2.0))
    clock.advance(5)
    pool.lease(worker_in(pool, "old"))
    pool.lease(worker_in(pool, "new")).release(Errored(Faulty("boom")))
    old, new = views(group(pool), clock).values()
    assert (old.in_flight, old.others, old.slots, old.full, old.speed, old.score) == (1, 3, 4, True, 1.0, 5.0)
    assert (old.weight, old.penalty, old.health, old.state) == (1.0, 1.0, "closed", "ready")
    assert (new.weight, new.penalty, new.speed) == (0.55, 8.0, 2.0)
    assert new.score == pytest.approx(1 / (2.0 * 0.55 / 8))
    assert (old.left_out, new.left_out) == ("", "")
    assert (old.place, old.limit, old.passed_over) == (0, 0.0, False)


def test_a_view_says_why_the_policy_does_not_see_the_worker() -> None:
    clock = Clock()
    names = ("aside", "denied", "draining", "down", "failing", "lost", "ok", "ok too", "tried", "well")
    pool = pool_of(clock, *(tagged(name, "gpu") for name in names), tagged("untagged"), tagged("eu", "gpu", "eu"))
    worker_in(pool, "aside").set_aside = "new disks"
    pool.lease(worker_in(pool, "denied"), "m").release(Errored(ModelGone("gone")))
    pool.report("draining", DRAINING)
    pool.mark_down("down")
    pool.lease(worker_in(pool, "lost")).release(Errored(Lost("refused")))
    for _ in range(5):
        pool.lease(worker_in(pool, "failing")).release(Errored(Faulty("boom")))
    clock.advance(1)
    (whole,) = group(pool)
    selected = whole.where(Selector(require=("gpu",), exclude=("eu",)))
    seen = views((selected,), clock, tried=("tried",))
    assert {name: view.left_out for name, view in seen.items()} == {
        "aside": "set aside",
        "denied": "answered 404 for m",
        "draining": "draining",
        "down": "down",
        "eu": "has the excluded tag eu",
        "failing": "breaker open",
        "lost": "suspect",
        "tried": "tried already",
        "untagged": "lacks the tag gpu",
        **dict.fromkeys(("ok", "ok too", "well"), ""),
    }
    assert seen["aside"].set_aside == "new disks"
    assert seen["denied"].denied == 4.0


def test_a_view_names_the_window_and_the_preference_that_others_have() -> None:
    clock = Clock()
    sizes = {"tiny": 500, "small": 1000, "near": 4000, "far": 4000}
    tags = {"near": ("eu",)}
    pool = pool_of(
        clock,
        *(
            tagged(name, *tags.get(name, ()), model=ModelInfo(name="m", context_length=size))
            for name, size in sizes.items()
        ),
        slots=1,
    )
    (whole,) = group(pool)
    preferring = (whole.where(Selector(prefer=("eu",))),)
    demand = Demand(at_least=600, at_most=3000)
    assert {name: view.left_out for name, view in views(preferring, clock, demand).items()} == {
        "tiny": "context window 500 is less than 600",
        "small": "others are preferred",
        "near": "",
        "far": "others are preferred",
    }
    pool.lease(worker_in(pool, "near"))
    seen = views(preferring, clock, demand)
    assert seen["near"].left_out == "full, and another has a free slot"
    assert (seen["near"].preferred, seen["near"].window, seen["near"].tags) == (True, 4000, ("eu",))
    assert seen["far"].left_out == ""


def test_workers_of_a_later_target_are_left_out_for_the_first() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "first"), found("b", "second"))
    groups = (*group(pool, "first"), *group(pool, "second"))
    assert {name: view.left_out for name, view in views(groups, clock).items()} == {
        "a": "",
        "b": "another target comes first",
    }
    assert views(groups, clock)["b"].group == 1


def test_two_targets_with_the_same_model_have_views_of_their_own() -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("near", "eu"), tagged("far"))
    (whole,) = group(pool)
    seen = examine((whole.where(Selector(require=("eu",))), whole), (), clock(), least_load)
    assert [(view.group, view.worker, view.left_out) for view in seen] == [
        (0, "near", ""),
        (0, "far", "lacks the tag eu"),
        (1, "near", "another target comes first"),
        (1, "far", "another target comes first"),
    ]


def test_a_worker_of_two_targets_has_one_line_in_the_log() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "first", "second"))
    groups = (*group(pool, "first"), *group(pool, "second"))
    assert rejections(groups, (), clock(), least_load) == {"a": "score 1.00"}


@pytest.mark.parametrize("policy", [Session(), PrefixAffinity()])
def test_a_view_has_the_place_and_the_bound_of_the_key(policy: Policy) -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name, slots=2) for name in "abcd"))
    demand = Demand(key=77, prefixes=(1, 2))
    owner = peek(group(pool), (), clock(), random.Random(1), policy, demand)
    assert owner is not None
    seen = views(group(pool), clock, demand, policy=policy)
    assert sorted(view.place for view in seen.values()) == [1, 2, 3, 4]
    assert seen[owner.worker.id].place == 1
    assert {view.limit for view in seen.values()} == {1}
    for _ in range(2):
        pool.lease(owner.worker)
    passed = views(group(pool), clock, demand, policy=policy)[owner.worker.id]
    assert passed.passed_over
    assert passed.summary == "full, score 3.00, load 2 of 1"
    after = peek(group(pool), (), clock(), random.Random(1), policy, demand)
    assert after is not None
    assert seen[after.worker.id].place == 2


def test_a_view_counts_the_prefixes_that_a_worker_received() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    policy, demand = PrefixAffinity(), Demand(key=77, prefixes=(1, 2))
    owner = choose(group(pool), (), clock(), random.Random(1), policy, demand)
    assert owner is not None
    longer = Demand(key=77, prefixes=(1, 2, 3))
    assert [view.remembered for view in views(group(pool), clock, longer, policy=policy).values()] in ([2, 0], [0, 2])


POLICIES = st.sampled_from([least_load, RoundRobin, Session, PrefixAffinity])
WORKERS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 8]),
        st.integers(0, 4),
        st.sampled_from([(), ("gpu",), ("eu",), ("gpu", "eu")]),
        st.sampled_from([0, 1000, 4000]),
        st.sampled_from(["ok", "ok", "ok", "down", "lost", "aside", "draining"]),
    ),
    min_size=1,
    max_size=5,
)
SELECTORS = st.builds(
    Selector,
    require=st.sampled_from([(), ("gpu",)]),
    exclude=st.sampled_from([(), ("eu",)]),
    prefer=st.sampled_from([(), ("eu",), ("eu", "gpu")]),
)
DEMANDS = st.builds(
    Demand,
    key=st.sampled_from([0, 5, 2**63]),
    prefixes=st.sampled_from([(), (1,), (1, 2)]),
    at_least=st.sampled_from([0, 900, 2000, 9000]),
    at_most=st.sampled_from([0, 950, 3000, 20_000]),
)


def fleet(clock: Clock, workers: list[tuple[int, int, tuple[str, ...], int, str]]) -> Pool:
    pool = pool_of(
        clock,
        *(
            tagged(str(index), *tags, model=ModelInfo(name="m", context_length=window))
            for index, (_, _, tags, window, _) in enumerate(workers)
        ),
    )
    for index, (slots, load, _, _, mark) in enumerate(workers):
        worker = worker_in(pool, str(index))
        worker.slots = slots
        pool.report(str(index), LoadReport(running=load))
        if mark == "down":
            pool.mark_down(str(index))
        elif mark == "lost":
            pool.mark_suspect(str(index))
        elif mark == "aside":
            worker.set_aside = "new disks"
        elif mark == "draining":
            pool.report(str(index), LoadReport(state=WorkerState.DRAINING))
    return pool


@settings(max_examples=300, deadline=None)
@given(policy=POLICIES, workers=WORKERS, selector=SELECTORS, demand=DEMANDS, tried=st.sets(st.sampled_from("01")))
def test_the_worker_that_is_chosen_is_one_that_the_views_do_not_leave_out(
    policy: object,
    workers: list[tuple[int, int, tuple[str, ...], int, str]],
    selector: Selector,
    demand: Demand,
    tried: set[str],
) -> None:
    clock = Clock()
    pool = fleet(clock, workers)
    (whole,) = group(pool)
    groups = (whole.where(selector),)
    picking = policy() if isinstance(policy, type) else policy
    assert isinstance(picking, Policy)
    for _ in range(3):
        seen = examine(groups, tried, clock(), picking, demand)
        assert len(seen) == len(workers)
        expected = peek(groups, tried, clock(), random.Random(9), picking, demand)
        chosen = choose(groups, tried, clock(), random.Random(9), picking, demand)
        assert chosen == expected
        eligible = {view.worker: view for view in seen if not view.left_out}
        assert (chosen is None) == (not eligible)
        if chosen is None:
            return
        view = eligible[chosen.worker.id]
        if any(not other.passed_over for other in eligible.values()) and demand.key:
            assert not view.passed_over or isinstance(picking, RoundRobin)
        pool.lease(chosen.worker)

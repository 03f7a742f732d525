"""Parts of a group: selected by tags, preferred, and by context window."""

import random
from collections import Counter

import pytest

from tests.support.balance import DRAINING, Clock, found, pool_of, tagged, worker_in
from vllama_pool.config.routing.model_entry import Selector
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.lease import Errored
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import Untried, choose, count_untried, fits_somewhere, peek
from vllama_pool.router.errors import Faulty
from vllama_pool.workers.registry.record import LoadReport, ModelInfo


def group_of(pool: Pool, selector: Selector | None = None, name: str = "m") -> Group:
    group = pool.group_for(name)
    assert group is not None
    return group if selector is None else group.where(selector)


def chosen(
    group: Group, clock: Clock, demand: Demand = PLAIN, tried: tuple[str, ...] = (), policy: Policy = least_load
) -> set[str]:
    """The workers that 200 choices without a dispatch can fall on."""
    rng = random.Random(5)
    found = [choose((group,), tried, clock(), rng, policy, demand) for _ in range(200)]
    return {replica.worker.id if replica else "none" for replica in found}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (Selector(), "abc"),
        (Selector(require=("gpu",)), "ab"),
        (Selector(require=("gpu", "eu")), "b"),
        (Selector(any=("eu", "us")), "bc"),
        (Selector(exclude=("eu",)), "ac"),
        (Selector(require=("gpu",), exclude=("eu",)), "a"),
        (Selector(any=("moon",)), ""),
    ],
)
def test_a_selector_keeps_workers_by_their_tags(selector: Selector, selected: str) -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("a", "gpu"), tagged("b", "gpu", "eu"), tagged("c", "us"))
    assert "".join(worker.id for worker in group_of(pool, selector)) == selected
    assert chosen(group_of(pool, selector), clock) == (set(selected) or {"none"})


def test_a_selected_part_follows_workers_that_come_change_and_go() -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("a", "gpu"), tagged("b"))
    part = group_of(pool, Selector(require=("gpu",)))
    assert chosen(part, clock) == {"a"}
    pool.put(tagged("c", "gpu"))
    pool.report("a", DRAINING)
    assert chosen(part, clock) == {"c"}
    pool.put(tagged("b", "gpu"), tagged("c", "cpu"))
    assert chosen(part, clock) == {"b"}
    pool.remove("b")
    assert chosen(part, clock) == {"none"}
    assert not part.serving
    pool.report("a", LoadReport())
    assert chosen(part, clock) == {"a"}
    assert part.serving


def test_a_part_in_use_is_the_same_for_equal_selectors() -> None:
    pool = pool_of(Clock(), tagged("a", "gpu"))
    part = group_of(pool, Selector(require=("gpu",)))
    assert group_of(pool, Selector(require=("gpu",))) is part
    assert group_of(pool, Selector(require=("gpu",), prefer=("eu",))) is not part


def test_the_breakers_of_a_part_are_ignored_if_most_of_its_workers_fail() -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("a", "gpu"), *(tagged(name) for name in "bcd"))
    for _ in range(5):
        pool.lease(worker_in(pool, "a")).release(Errored(Faulty("boom")))
    assert chosen(group_of(pool), clock) == set("bcd")
    assert chosen(group_of(pool, Selector(require=("gpu",))), clock) == {"a"}


PREFER = Selector(prefer=("h100", "eu"))


def preferring() -> tuple[Clock, Pool, Group]:
    clock = Clock()
    pool = pool_of(
        clock,
        *(tagged("both", "h100", "eu"), tagged("fast", "h100"), tagged("near", "eu"), tagged("other")),
        slots=1,
    )
    return clock, pool, group_of(pool, PREFER)


def test_a_request_spills_over_while_the_preferred_workers_are_full() -> None:
    clock, pool, group = preferring()
    order: list[set[str]] = []
    for _ in range(4):
        order.append(chosen(group, clock))
        replica = choose((group,), (), clock(), random.Random(1), least_load)
        assert replica is not None
        pool.lease(replica.worker)
    assert [len(names) for names in order] == [3, 2, 1, 1]
    assert order[2] < order[1] < order[0] == {"both", "fast", "near"}
    assert order[3] == {"other"}
    assert chosen(group, clock) == {"both", "fast", "near", "other"}, "all are full"


def test_round_robin_takes_turns_among_the_preferred_until_all_of_them_are_full() -> None:
    clock, pool, group = preferring()
    policy = RoundRobin()
    assert chosen(group, clock, policy=policy) == {"both", "fast", "near"}
    for name in ("both", "fast", "near"):
        pool.lease(worker_in(pool, name))
    assert chosen(group, clock, policy=policy) == {"other"}


def test_a_request_spills_over_while_the_preferred_are_out() -> None:
    clock, pool, group = preferring()
    pool.report("both", DRAINING)
    pool.mark_down("fast")
    worker_in(pool, "near").set_aside = "new disks"
    assert chosen(group, clock) == {"other"}
    assert chosen(group, clock, tried=("other",)) == {"fast"}, "a worker that is down is the last resort"
    worker_in(pool, "near").set_aside = ""
    assert chosen(group, clock) == {"near"}


def test_a_retry_goes_to_the_next_preferred_worker() -> None:
    clock, _, group = preferring()
    assert chosen(group, clock, tried=("both",)) == {"fast", "near"}
    assert chosen(group, clock, tried=("both", "fast", "near")) == {"other"}
    assert count_untried((group,), ("both",), clock()) == Untried(healthy=3, last_resort=0)


def test_a_preferred_tag_that_all_or_none_have_changes_nothing() -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("a", "gpu"), tagged("b", "gpu"))
    assert chosen(group_of(pool, Selector(prefer=("gpu",))), clock) == {"a", "b"}
    assert chosen(group_of(pool, Selector(prefer=("moon",))), clock) == {"a", "b"}


# --- context windows ---


def windows(**tokens: int) -> tuple[Clock, Pool, Group]:
    """Workers with these context windows; 0 is unknown."""
    clock = Clock()
    infos = {name: ModelInfo(name="m", context_length=size) for name, size in tokens.items()}
    pool = pool_of(clock, *(found(name, info, slots=1) for name, info in infos.items()))
    return clock, pool, group_of(pool)


def test_a_prompt_of_unknown_length_may_go_to_any_window() -> None:
    clock, _, group = windows(small=1000, large=4000)
    assert chosen(group, clock) == {"small", "large"}


def test_a_prompt_that_is_certainly_too_long_goes_to_a_larger_window_only() -> None:
    clock, pool, group = windows(small=1000, middle=2000, large=4000)
    assert chosen(group, clock, Demand(at_least=1001)) == {"middle", "large"}
    assert chosen(group, clock, Demand(at_least=1000)) == {"small", "middle", "large"}
    for name in ("middle", "large"):
        pool.lease(worker_in(pool, name))
    assert chosen(group, clock, Demand(at_least=1001)) == {"middle", "large"}, "full ones are no reason"
    pool.mark_down("middle")
    pool.mark_down("large")
    assert chosen(group, clock, Demand(at_least=1001)) == {"middle", "large"}
    assert count_untried((group,), (), clock(), Demand(at_least=1001)) == Untried(healthy=0, last_resort=2)


def test_windows_that_surely_fit_are_preferred_while_they_have_a_free_slot() -> None:
    clock, pool, group = windows(small=1000, large=4000)
    demand = Demand(at_least=300, at_most=1500)
    assert chosen(group, clock, demand) == {"large"}
    pool.lease(worker_in(pool, "large"))
    assert chosen(group, clock, demand) == {"small"}
    assert chosen(group, clock, Demand(at_least=300, at_most=900)) == {"small"}, "both fit, and one is full"


def test_a_prompt_too_long_for_all_goes_to_the_largest_window() -> None:
    clock, pool, group = windows(small=1000, large=4000)
    assert chosen(group, clock, Demand(at_least=9000)) == {"large"}
    assert not fits_somewhere((group,), Demand(at_least=9000))
    assert fits_somewhere((group,), Demand(at_least=4000))
    pool.remove("large")
    assert chosen(group, clock, Demand(at_least=9000)) == {"small"}


def test_a_window_of_unknown_size_is_tried_for_long_prompts_but_not_preferred() -> None:
    clock, _, group = windows(small=1000, unknown=0)
    assert chosen(group, clock, Demand(at_least=1001)) == {"unknown"}
    assert chosen(group, clock, Demand(at_least=10, at_most=500)) == {"small", "unknown"}


def test_a_later_target_with_a_larger_window_serves_what_the_first_cannot() -> None:
    clock = Clock()
    first, second = ModelInfo(name="first", context_length=1000), ModelInfo(name="second", context_length=4000)
    pool = pool_of(clock, found("a", first), found("b", second))
    groups = group_of(pool, name="first"), group_of(pool, name="second")
    rng = random.Random(1)

    def served(demand: Demand) -> str:
        replica = choose(groups, (), clock(), rng, least_load, demand)
        assert replica is not None
        return replica.model.name

    assert [served(Demand(at_least=tokens)) for tokens in (0, 1000, 1001, 9000)] == [
        *("first", "first", "second", "second"),
    ]


def test_preferred_tags_count_among_windows_that_fit() -> None:
    clock = Clock()
    small, large = ModelInfo(name="m", context_length=1000), ModelInfo(name="m", context_length=4000)
    pool = pool_of(
        clock,
        *(tagged("near small", "eu", model=small), tagged("near large", "eu", model=large)),
        tagged("far large", model=large),
        slots=1,
    )
    group = group_of(pool, Selector(prefer=("eu",)))
    long = Demand(at_least=100, at_most=2000)
    order = []
    for _ in range(3):
        (name,) = chosen(group, clock, long)
        order.append(name)
        pool.lease(worker_in(pool, name))
    assert order == ["near large", "far large", "near small"]
    assert chosen(group, clock, Demand(at_least=1001)) == {"near large", "far large"}


def test_equal_windows_divide_no_group() -> None:
    _, pool, group = windows(a=1000, b=1000)
    assert not group.graded
    pool.put(found("c", ModelInfo(name="m", context_length=2000)))
    assert group.graded
    assert group.windows == (1000, 2000)
    pool.put(found("c", ModelInfo(name="m", context_length=1000)))
    assert not group.graded
    pool.put(found("c", ModelInfo(name="m", context_length=2000)))
    pool.remove("c")
    assert not group.graded


@pytest.mark.parametrize("demand", [PLAIN, Demand(at_least=1001), Demand(at_most=2000), Demand(at_least=9000)])
def test_a_peek_has_the_choices_of_the_policy_and_no_effect(demand: Demand) -> None:
    clock, _, group = windows(small=1000, middle=2000, large=4000)
    policy = RoundRobin()
    turns: Counter[str] = Counter()
    for _ in range(12):
        rng = random.Random(1)
        seen = [peek((group,), (), clock(), rng, policy, demand) for _ in range(2)]
        replica = choose((group,), (), clock(), rng, policy, demand)
        assert seen == [replica, replica]
        assert replica is not None
        turns[replica.worker.id] += 1
    assert max(turns.values()) == min(turns.values())

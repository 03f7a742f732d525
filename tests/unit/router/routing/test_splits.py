"""Sticky and random orders of weighted targets."""

import random
from collections import Counter

import pytest

from vllama_pool.config.routing.model_entry import Selector, Target
from vllama_pool.router.routing.splits import LAST, identity_hash, random_times, seeds_of, sticky_times

DECISIONS = 20_000


def targets(*weights: int) -> list[Target]:
    return [Target(model=f"m{number}", weight=weight) for number, weight in enumerate(weights)]


def sides(rule: str, given: list[Target], users: int = DECISIONS) -> list[str]:
    """Return the first target of each user."""
    seeds, weights = seeds_of(rule, given), [float(target.weight) for target in given]
    times = (sticky_times(weights, seeds, identity_hash(f"user-{number}")) for number in range(users))
    return [given[each.index(min(each))].model for each in times]


@pytest.mark.parametrize("weights", [(95, 5), (1, 1), (3, 1), (50, 30, 20), (99, 1), (2, 0, 6)])
def test_sticky_shares_follow_the_weights(weights: tuple[int, ...]) -> None:
    counts = Counter(sides("assistant", targets(*weights)))
    for number, weight in enumerate(weights):
        share = counts[f"m{number}"] / DECISIONS
        assert share == pytest.approx(weight / sum(weights), abs=0.0075 if max(weights) < 95 else 0.005)


def test_random_shares_follow_the_weights() -> None:
    rng = random.Random(7)
    times = (random_times((95.0, 5.0), rng) for _ in range(DECISIONS))
    assert sum(second < first for first, second in times) / DECISIONS == pytest.approx(0.05, abs=0.005)


def test_an_identity_keeps_its_side_in_every_process() -> None:
    """The values are part of the promise: a new release must not move users."""
    assert identity_hash("user-1") == 0x9AAC5A8621EAE188
    assert "".join(side[1] for side in sides("assistant", targets(1, 1), 32)) == "01111010101000110011011000010001"


def test_a_changed_weight_moves_only_the_difference() -> None:
    before, after = sides("assistant", targets(60, 35, 5)), sides("assistant", targets(60, 35, 15))
    moved = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    assert {new for _, new in moved} == {"m2"}
    assert moved.total() / DECISIONS == pytest.approx(15 / 110 - 0.05, abs=0.01)


def test_the_order_of_the_list_and_further_targets_move_no_one_else() -> None:
    given = targets(3, 2, 1)
    assert sides("assistant", given) == sides("assistant", given[::-1])
    fewer = sides("assistant", given[:2])
    moved = [old for old, new in zip(fewer, sides("assistant", given), strict=True) if old != new and new != "m2"]
    assert not moved


def test_entries_divide_the_same_users_independently() -> None:
    one, two = sides("one", targets(1, 1)), sides("two", targets(1, 1))
    assert sum(a == b for a, b in zip(one, two, strict=True)) / DECISIONS == pytest.approx(0.5, abs=0.02)


def test_one_model_on_two_sorts_of_workers_has_two_sides() -> None:
    both = [Target(model="m", workers=Selector(require=(tag,))) for tag in ("h100", "a100")]
    first, second = seeds_of("assistant", both)
    assert first != second


def test_a_target_of_weight_0_comes_last() -> None:
    assert sticky_times((1.0, 0.0), seeds_of("a", targets(1, 0)), 5)[1] == LAST
    assert random_times((0.0, 1.0), random.Random(1))[0] == LAST
    assert identity_hash("") == 0

"""The order of waiting requests: within a tenant, among tenants, and against a plain model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama_pool.router.admission.fair_order import FairOrder
from vllama_pool.router.admission.tenant import Tenant

Item = tuple[str, int]
"""A tenant's name and a number."""


def tenant(name: str, weight: int = 1) -> Tenant:
    return Tenant("team", name, weight)


def add(order: FairOrder[Item], each: Tenant, numbers: range) -> None:
    for number in numbers:
        order.add((each.id[1], number), each)


def pop_all(order: FairOrder[Item]) -> Iterator[Item]:
    while order:
        yield order.pop()


def names(items: Iterator[Item] | list[Item]) -> str:
    return "".join(name for name, _ in items)


def test_requests_of_one_tenant_come_in_the_order_of_arrival() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("a", 7), range(50))
    assert [number for _, number in pop_all(order)] == list(range(50))
    with pytest.raises(IndexError):
        order.pop()


def test_tenants_with_one_request_each_come_in_the_order_of_arrival() -> None:
    order: FairOrder[Item] = FairOrder()
    for name in "dbca":
        add(order, tenant(name), range(1))
    assert names(pop_all(order)) == "dbca"


def test_equal_tenants_take_turns_however_many_requests_each_has() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("a"), range(6))
    add(order, tenant("b"), range(3))
    assert names(pop_all(order)) == "abababaaa"


@pytest.mark.parametrize(("one", "other"), [(3, 1), (1, 3), (5, 2), (1000, 250)])
def test_every_window_of_turns_is_shared_by_weight(one: int, other: int) -> None:
    order: FairOrder[Item] = FairOrder()
    a, b = tenant("a", one), tenant("b", other)
    add(order, a, range(1000))
    add(order, b, range(1000))
    turns = [order.pop()[0] for _ in range(1000)]
    share = one / (one + other)
    for start in range(0, 800, 7):
        assert turns[start : start + 200].count("a") == pytest.approx(200 * share, rel=0.1)


def test_a_tenant_that_returns_has_no_credit_for_its_absence() -> None:
    order: FairOrder[Item] = FairOrder()
    a, b = tenant("a"), tenant("b")
    add(order, a, range(200))
    add(order, b, range(1))
    for _ in range(100):
        order.pop()
    add(order, b, range(1, 50))
    turns = names([order.pop() for _ in range(40)])
    assert turns.count("b") == 20
    assert "bb" not in turns


def test_a_tenant_gains_nothing_by_sending_one_request_after_the_other() -> None:
    """It is forgotten after each, and yet waits its time."""
    order: FairOrder[Item] = FairOrder()
    a, b = tenant("a", 3), tenant("b")
    add(order, a, range(400))
    order.add(("b", 0), b)
    turns = ""
    for number in range(1, 401):
        name, _ = order.pop()
        turns += name
        if name == "b":
            order.add(("b", number), b)
    assert turns.count("b") == pytest.approx(100, rel=0.02)


def test_new_tenants_without_end_do_not_starve_one_that_waits() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("a"), range(2))
    for number in range(20):
        order.add((str(number), 0), tenant(str(number)))
    turns = 0
    for number in count(20):
        turns += 1
        if order.pop() == ("a", 1):
            break
        order.add((str(number), 0), tenant(str(number)))
        assert turns < 100
    assert turns <= 42


def test_a_tenant_that_leaves_and_returns_waits_anew() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("a"), range(2))
    add(order, tenant("b"), range(2))
    order.remove(("a", 0))
    order.remove(("a", 1))
    add(order, tenant("a"), range(2, 4))
    assert names(pop_all(order)) == "baba"
    with pytest.raises(KeyError):
        order.remove(("a", 0))


def test_the_first_request_that_leaves_gives_its_turn_to_the_next_of_its_tenant() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("a"), range(2))
    add(order, tenant("b"), range(1))
    order.remove(("a", 0))
    assert list(pop_all(order)) == [("a", 1), ("b", 0)]


def test_a_changed_weight_counts_from_the_next_turn() -> None:
    order: FairOrder[Item] = FairOrder()
    a, b = tenant("a", 3), tenant("b", 1)
    add(order, a, range(1000))
    add(order, b, range(1000))
    before = names([order.pop() for _ in range(400)])
    a.weight, b.weight = 1, 3
    after = names([order.pop() for _ in range(400)])
    assert before.count("a") == pytest.approx(300, rel=0.02)
    assert after.count("a") == pytest.approx(100, rel=0.02)


def test_tenants_that_come_and_leave_take_no_memory() -> None:
    order: FairOrder[Item] = FairOrder()
    add(order, tenant("stays"), range(1))
    for number in range(10_000):
        order.add((str(number), 0), tenant(str(number)))
        order.remove((str(number), 0))
    assert repr(order) == "<FairOrder of 1 of 1 tenants>"
    assert len(order._heap) < 25


class Model:
    """A list of lists, in exact numbers: the tenant with the earliest time is searched for."""

    def __init__(self) -> None:
        self.now = Fraction(0)
        self.entered = count()
        self.lines: dict[str, list[Item]] = {}
        self.due: dict[str, tuple[Fraction, int]] = {}

    def add(self, item: Item, weight: int) -> None:
        if item[0] not in self.lines:
            self.start(item[0], weight)
        self.lines.setdefault(item[0], []).append(item)

    def start(self, name: str, weight: int) -> None:
        self.due[name] = self.now + Fraction(1, weight), next(self.entered)

    def remove(self, item: Item) -> None:
        self.lines[item[0]].remove(item)
        self.forget_empty(item[0])

    def forget_empty(self, name: str) -> None:
        if not self.lines[name]:
            del self.lines[name], self.due[name]

    def pop(self, weights: dict[str, Tenant]) -> Item:
        name = min(self.due, key=lambda each: self.due[each])
        self.now = self.due[name][0]
        item = self.lines[name].pop(0)
        self.start(name, weights[name].weight)
        self.forget_empty(name)
        return item


WEIGHTS = st.sampled_from((1, 2, 4, 8, 64))
"""Their reciprocals are exact in binary, so that ties are ties in both."""
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcd")),
        st.tuples(st.just("pop"), st.just("")),
        st.tuples(st.just("remove"), st.integers(0, 1000)),
        st.tuples(st.just("weigh"), st.tuples(st.sampled_from("abcd"), WEIGHTS)),
    ),
    max_size=200,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_any_sequence_gives_the_order_of_the_plain_model(sequence: list[tuple[str, object]]) -> None:
    order: FairOrder[Item] = FairOrder()
    model, waiting, numbers = Model(), list[Item](), count()
    tenants = {name: tenant(name) for name in "abcd"}
    for step, what in sequence:
        if step == "add" and isinstance(what, str):
            item = what, next(numbers)
            order.add(item, tenants[what])
            model.add(item, tenants[what].weight)
            waiting.append(item)
        elif step == "weigh" and isinstance(what, tuple):
            tenants[what[0]].weight = what[1]
        elif step == "pop" and waiting:
            item = order.pop()
            assert item == model.pop(tenants)
            waiting.remove(item)
        elif step == "remove" and waiting and isinstance(what, int):
            item = waiting.pop(what % len(waiting))
            order.remove(item)
            model.remove(item)
        assert len(order) == len(waiting)
    assert list(pop_all(order)) == [model.pop(tenants) for _ in waiting]


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_tenants_that_always_wait_are_never_further_apart_than_one_turn_each(weights: list[int], turns: int) -> None:
    order: FairOrder[Item] = FairOrder()
    for i, weight in enumerate(weights):
        add(order, tenant(str(i), weight), range(turns + 1))
    had: Counter[str] = Counter()
    for _ in range(turns):
        had[order.pop()[0]] += 1
        served = [had[str(i)] / weight for i, weight in enumerate(weights)]
        least, most = min(weights), max(served) - min(served)
        assert most <= 1 / least + 1e-6

"""Queues in front of limited places: order, limits, leaving, Retry-After."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.balance import Clock
from vllama_pool.router.admission.queue import AdmissionQueue, QueueLimits, Ticket
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.errors import ServerBusy


def queue(places: int | None = 1, length: int = 10, clock: Clock | None = None) -> AdmissionQueue:
    return AdmissionQueue(QueueLimits(places, length), clock or Clock())


def test_requests_beyond_the_places_wait_and_those_beyond_the_length_are_refused() -> None:
    full = queue(places=2, length=1)
    tickets = [full.enter() for _ in range(3)]
    assert [ticket.holds for ticket in tickets] == [True, True, False]
    with pytest.raises(ServerBusy) as caught:
        full.enter()
    assert caught.value.text == "server busy, please try again.  maximum pending requests exceeded"
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert (full.in_progress, full.waiting) == (2, 1)


def test_a_freed_place_goes_to_the_one_that_waits_longest() -> None:
    one = queue()
    first, *others = [one.enter() for _ in range(4)]
    turns: list[int] = []
    for number, ticket in enumerate(others):
        ticket.on_turn = lambda number=number: turns.append(number)  # type: ignore[misc]
    first.end()
    others[0].end()
    assert turns == [0, 1]
    late = one.enter()
    others[1].end()
    assert [ticket.holds for ticket in (others[2], late)] == [True, False]


def test_a_waiting_request_that_leaves_makes_room_in_the_queue() -> None:
    one = queue(length=1)
    holder, waiting = one.enter(), one.enter()
    waiting.end()
    waiting.end()
    successor = one.enter()
    holder.end()
    assert successor.holds
    assert not waiting.holds


def test_with_length_0_a_request_needs_a_free_place() -> None:
    one = queue(length=0)
    ticket = one.enter()
    with pytest.raises(ServerBusy):
        one.enter()
    ticket.end()
    assert one.enter().holds


def test_raised_limits_let_those_that_wait_proceed_at_once() -> None:
    one = queue()
    _, *others = [one.enter() for _ in range(4)]
    one.set_limits(QueueLimits(3, 10))
    assert [ticket.holds for ticket in others] == [True, True, False]
    one.set_limits(QueueLimits(None, 0))
    assert one.waiting == 0


def test_lowered_limits_are_reached_as_requests_end() -> None:
    three = queue(places=3)
    held = [three.enter() for _ in range(3)]
    waiting = three.enter()
    three.set_limits(QueueLimits(1, 0))
    assert (three.in_progress, three.waiting) == (3, 1)
    for ticket in held[:2]:
        ticket.end()
        assert not waiting.holds
    held[2].end()
    assert waiting.holds


def test_retry_after_is_the_time_in_which_the_queue_moves_on() -> None:
    clock = Clock()
    two = queue(places=2, length=5, clock=clock)
    held = [two.enter(), two.enter()]
    clock.advance(8)
    held[0].end()
    held[0] = two.enter()
    for _ in range(5):
        two.enter()
    assert two.busy().retry_after == 24  # six requests, two at a time, 8 s each
    clock.advance(10_000)
    held[0].end()
    assert two.busy().retry_after == 60


class Load:
    """Requests of tenants in simulated time: each holds its place for a second."""

    def __init__(self, places: int, *tenants: Tenant, backlog: int = 20) -> None:
        self.clock = Clock()
        self.queue = queue(places, 10_000, self.clock)
        self.turns: list[str] = []
        self._backlog = backlog
        self._holding: list[Ticket] = []
        for tenant in tenants:
            self.send(tenant)

    def send(self, tenant: Tenant) -> None:
        for _ in range(self._backlog):
            self._enter(tenant)

    def run(self, seconds: int) -> str:
        """Return the tenants in the order of their turns."""
        self.turns = []
        for _ in range(seconds):
            self.clock.advance(1)
            ended, self._holding = self._holding, []
            for ticket in ended:
                ticket.end()
        return "".join(self.turns)

    def _enter(self, tenant: Tenant) -> None:
        """Each request is followed by the next one of its tenant as soon as it has its turn."""
        ticket = self.queue.enter(tenant)

        def take() -> None:
            self._holding.append(ticket)
            self.turns.append(tenant.id[1])
            self._enter(tenant)

        ticket.on_turn = take
        if ticket.holds:
            self._holding.append(ticket)


def test_two_teams_under_saturation_share_the_places_by_weight_in_every_window() -> None:
    turns = Load(8, Tenant("team", "a", 3), Tenant("team", "b", 1)).run(200)
    assert len(turns) == 1600
    for start in range(0, 1400, 13):
        assert turns[start : start + 200].count("a") == pytest.approx(150, rel=0.1)


def test_a_team_alone_gets_all_places_and_shares_them_at_once_with_one_that_returns() -> None:
    a, b = Tenant("team", "a", 3), Tenant("team", "b", 1)
    load = Load(8, a)
    assert set(load.run(100)) == {"a"}
    load.send(b)
    assert load.run(50).count("b") == pytest.approx(100, rel=0.1)


def test_weights_that_change_while_requests_wait_count_from_the_next_turns_on() -> None:
    a, b = Tenant("team", "a", 3), Tenant("team", "b", 1)
    load = Load(8, a, b)
    load.run(10)
    a.weight, b.weight = 1, 3
    assert load.run(50).count("b") == pytest.approx(300, rel=0.1)


class Machine(RuleBasedStateMachine):
    """Requests that come, end and leave in any order, under limits that change."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = AdmissionQueue(QueueLimits(1, 3), self.clock)
        self.tickets: list[Ticket] = []
        self.order: list[Ticket] = []
        """Those that had to wait, in the order of their turns."""
        self.waited: list[Ticket] = []
        """Those that had to wait, in the order of their arrival."""
        self.tenants = [Tenant("team", "a", 3), Tenant("team", "b"), Tenant("client", "b")]
        self.tenant_of: dict[Ticket, Tenant] = {}

    @rule(index=st.integers(0, 2))
    def enter(self, index: int) -> None:
        limits = self.queue.limits
        full = limits.places is not None and self.queue.in_progress >= limits.places
        must_refuse = full and self.queue.waiting >= limits.length
        try:
            ticket = self.queue.enter(self.tenants[index])
        except ServerBusy:
            assert must_refuse
            return
        assert not must_refuse
        assert ticket.holds is not full
        self.tickets.append(ticket)
        if not ticket.holds:
            self.waited.append(ticket)
            self.tenant_of[ticket] = self.tenants[index]
            ticket.on_turn = lambda: self.order.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        if not ticket.holds:
            self.waited.remove(ticket)  # it leaves before its turn
        self.tickets.remove(ticket)
        for _ in range(2):
            ticket.end()
            assert not ticket.holds

    @rule(places=st.one_of(st.none(), st.integers(1, 5)), length=st.integers(0, 4))
    def change_limits(self, places: int | None, length: int) -> None:
        self.queue.set_limits(replace(self.queue.limits, places=places, length=length))

    @rule(seconds=st.floats(0, 100))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def every_ticket_is_counted_once(self) -> None:
        assert self.queue.in_progress == sum(ticket.holds for ticket in self.tickets)
        assert self.queue.waiting == sum(not ticket.holds for ticket in self.tickets)

    @invariant()
    def no_place_is_free_while_a_request_waits(self) -> None:
        places = self.queue.limits.places
        if self.queue.waiting:
            assert places is not None
            assert self.queue.in_progress >= places

    @invariant()
    def turns_of_a_tenant_come_in_the_order_of_arrival(self) -> None:
        for tenant in self.tenants:
            turns = [ticket for ticket in self.order if self.tenant_of[ticket] is tenant]
            waited = [ticket for ticket in self.waited if self.tenant_of[ticket] is tenant]
            assert turns == waited[: len(turns)]

    @rule(index=st.integers(0, 2), weight=st.integers(1, 1000))
    def change_weight(self, index: int, weight: int) -> None:
        self.tenants[index].weight = weight

    @invariant()
    def retry_after_is_within_bounds(self) -> None:
        assert 1 <= (self.queue.busy().retry_after or 0) <= 600

    def teardown(self) -> None:
        for ticket in list(self.tickets):
            ticket.end()
        assert self.queue.is_idle


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = Machine.TestCase

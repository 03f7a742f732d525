"""Invariants of a pool and its leases under random events in any order (Hypothesis).

After each event, the candidates that the pool keeps up to date are compared with a plain look at every worker.
"""

import random
from collections.abc import Callable, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from tests.support import selection_reference as reference
from tests.support.balance import Clock, found, group
from vllama_pool.config.names import lookup_key
from vllama_pool.config.routing.model_entry import Selector
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Lease, Outcome
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import choose, count_untried
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.router.errors import Busy, Faulty, Lost, ModelGone, Refused, Unavailable
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerState

IDS = st.sampled_from(["a", "b", "c", "d"])
NAMES = ("m", "lora", "M", "m:latest")
MODELS = st.sampled_from([("m", "lora"), ("lora", "m"), ("m",), ("M", "lora"), ("M", "m")])
LOADS = st.builds(
    LoadReport,
    state=st.sampled_from(list(WorkerState)),
    running=st.integers(0, 8),
    waiting=st.integers(0, 3),
    tokens_per_second=st.floats(0, 1000),
    restarts=st.integers(0, 2),
)
FAILURES = st.sampled_from([Lost, Busy, Unavailable, Faulty, ModelGone, Refused])
OUTCOMES = st.one_of(
    st.just(Abandoned()),
    st.integers(0, 1000).map(Completed),
    FAILURES.map(lambda kind: Errored(kind("failed"))),
)


SELECTORS = st.builds(
    Selector,
    require=st.sampled_from([(), ("gpu",)]),
    exclude=st.sampled_from([(), ("eu",)]),
    prefer=st.sampled_from([(), ("eu",), ("eu", "gpu")]),
)
BOUNDS = ((0, 0), (1500, 0), (0, 1500), (900, 5000), (9000, 0))
DEMANDS = tuple(Demand(at_least=least, at_most=most) for least, most in BOUNDS)


class LastOf(Policy):
    """Notes the candidates."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        self.seen.append([worker.id for worker in candidates])
        return candidates[-1]


class PoolMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.rng = random.Random(1)
        self.pool = Pool(self.clock)
        self.open: list[tuple[Worker, Lease]] = []
        self.refused: set[str] = set()
        self.turns = RoundRobin()
        self.plain_turns = reference.RoundRobin()
        self.parts: list[tuple[str, Group, Selector, Group]] = []

    @rule(
        worker_id=IDS,
        models=MODELS,
        generation=st.integers(1, 3),
        slots=st.sampled_from([0, 2, 8]),
        load=st.one_of(st.none(), LOADS),
        tags=st.sampled_from([(), ("gpu",), ("eu",), ("gpu", "eu")]),
        window=st.sampled_from([0, 1000, 1000, 4000]),
    )
    def join(
        self,
        worker_id: str,
        models: tuple[str, ...],
        generation: int,
        slots: int,
        load: LoadReport | None,
        tags: tuple[str, ...],
        window: int,
    ) -> None:
        infos = [ModelInfo(name=model, context_length=window) for model in models]
        self.pool.put(found(worker_id, *infos, generation=generation, slots=slots, load=load, tags=tags))
        self.refused.discard(worker_id)

    @rule(worker_ids=st.sets(IDS))
    def replace(self, worker_ids: set[str]) -> None:
        here = {worker.id: worker.record.generation for worker in self.pool}
        self.pool.put(*(found(one, "m", "lora", generation=here.get(one, 3)) for one in worker_ids))
        self.pool.remove(*(here.keys() - worker_ids))
        self.refused &= here.keys() & worker_ids

    @rule(worker_id=IDS)
    def leave(self, worker_id: str) -> None:
        self.pool.remove(worker_id)
        self.refused.discard(worker_id)

    @rule(worker_id=IDS, load=LOADS)
    def beat(self, worker_id: str, load: LoadReport) -> None:
        if self.pool.report(worker_id, load):
            self.refused.discard(worker_id)

    @rule(worker_id=IDS, method=st.sampled_from(["mark_down", "mark_suspect", "mark_up"]))
    def mark(self, worker_id: str, method: str) -> None:
        getattr(self.pool, method)(worker_id)
        if method == "mark_up":
            self.refused.discard(worker_id)

    @rule(worker_id=IDS, message=st.sampled_from(["", "rebuilt"]))
    def set_aside(self, worker_id: str, message: str) -> None:
        worker = self.pool.get(worker_id)
        if worker is not None:
            worker.set_aside = message

    @rule(seconds=st.one_of(st.floats(0, 20), st.sampled_from([3.0, 5.0, 10.0])))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if seconds >= 3:
            self.refused.clear()

    @rule(replica=leases, name=st.sampled_from(["m", "lora"]), tried=st.sets(IDS))
    def dispatch(self, name: str, tried: set[str]) -> object:
        left = count_untried(group(self.pool, name), tried, self.clock())
        chosen = choose(group(self.pool, name), tried, self.clock(), self.rng, least_load)
        assert (chosen is None) == (left.healthy + left.last_resort == 0)
        if chosen is None:
            return multiple()
        worker = chosen.worker
        assert worker.id not in tried
        assert worker.state is WorkerState.READY
        assert not worker.set_aside
        assert worker is self.pool.get(worker.id)
        if left.healthy:
            assert not worker.down
            assert worker.id not in self.refused
        lease = self.pool.lease(worker, name)
        self.open.append((worker, lease))
        return lease

    @rule(lease=leases)
    def begin(self, lease: Lease) -> None:
        lease.record_first_content()
        self.refused.discard(lease.worker.id)

    @rule(lease=consumes(leases), outcome=OUTCOMES, times=st.integers(1, 3))
    def release(self, lease: Lease, outcome: Outcome, times: int) -> None:
        for _ in range(times):
            lease.release(outcome)
        self.open = [(worker, other) for worker, other in self.open if other is not lease]
        self.refused.discard(lease.worker.id)

    @rule(name=st.sampled_from(["m", "lora"]))
    def refuse(self, name: str) -> None:
        """A refused connection: the worker is not chosen until a report, probe or success."""
        chosen = choose(group(self.pool, name), (), self.clock(), self.rng, least_load)
        if chosen is not None:
            self.pool.lease(chosen.worker, name).release(Errored(Lost("refused")))
            self.refused.add(chosen.worker.id)

    @precondition(lambda self: not self.open)
    @rule()
    def rest(self) -> None:
        assert self.pool.in_flight == 0
        assert all(worker.in_flight == 0 for worker in self.pool)

    @rule(names=st.permutations(NAMES), tried=st.sets(IDS))
    def take_turns(self, names: list[str], tried: set[str]) -> None:
        groups, plain = self.groups(names), self.plain_groups(names)
        for _ in range(3):
            ours = choose(groups, tried, self.clock(), self.rng, self.turns)
            assert ours == reference.choose(plain, tried, self.clock(), self.rng, self.plain_turns)

    @invariant()
    def candidates_are_those_of_a_plain_look_at_every_worker(self) -> None:
        now = self.clock()
        for names in (("m",), ("lora",), ("m", "lora"), ("M", "m:latest", "m")):
            groups, plain = self.groups(names), self.plain_groups(names)
            for tried in ((), ("a",), ("a", "b", "c")):
                policy = LastOf()
                ours = choose(groups, tried, now, self.rng, policy)
                assert ours == reference.choose(plain, tried, now, self.rng, policy)
                assert policy.seen[1:] == policy.seen[:1]
                assert count_untried(groups, tried, now) == reference.count_untried(plain, tried, now)
            assert any(one.serving for one in groups) == any(
                replica.worker.is_open for replicas in plain for replica in replicas
            )

    @rule(name=st.sampled_from(NAMES), selector=SELECTORS)
    def hold_a_part(self, name: str, selector: Selector) -> None:
        """Keep a part for the rest of the run, as a resolution does."""
        for one in group(self.pool, name):
            self.parts.append((name, one, selector, one.where(selector)))

    @invariant()
    def parts_are_those_of_a_plain_look_at_every_worker(self) -> None:
        now = self.clock()
        for name, whole, selector, part in self.parts[-6:]:
            if group(self.pool, name) != (whole,):
                continue
            (plain,) = self.plain_groups((name,))
            for demand in DEMANDS:
                for tried in ((), ("a", "b")):
                    ours, theirs = LastOf(), LastOf()
                    chosen = choose((part,), tried, now, self.rng, ours, demand)
                    expected = reference.choose_among(plain, selector, demand, tried, now, self.rng, theirs)
                    assert chosen == expected
                    assert ours.seen == theirs.seen

    def groups(self, names: Sequence[str]) -> tuple[Group, ...]:
        return tuple(one for name in names for one in group(self.pool, name))

    def plain_groups(self, names: Sequence[str]) -> list[list[Replica]]:
        """The replicas by name, from the workers' records alone."""
        groups = []
        for name in names:
            exact = self.plain_replicas(lambda model, name=name: model == name)
            groups.append(exact or self.plain_replicas(lambda model, name=name: lookup_key(model) == lookup_key(name)))
        return [one for one in groups if one]

    def plain_replicas(self, matches: Callable[[str], bool]) -> list[Replica]:
        firsts = ((worker, [model for model in worker.record.models if matches(model.name)]) for worker in self.pool)
        return [Replica(worker, models[0]) for worker, models in firsts if models]

    @invariant()
    def counts_are_right(self) -> None:
        assert self.pool.in_flight == len(self.open)
        for worker in self.pool:
            ours = sum(leased is worker for leased, _ in self.open)
            assert worker.in_flight == ours
            assert worker.load >= ours
            assert 0 < worker.speed.weight(self.clock()) <= 1
            assert 0.25 <= worker.speed.full <= 4

    def teardown(self) -> None:
        for _, lease in self.open:
            lease.release(Abandoned())
        assert self.pool.in_flight == 0


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase

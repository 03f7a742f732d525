"""State machine: whatever happens to the registry, living workers stay and dead ones go down.

Workers beat every second unless they are dead or cut off. The registry may be flushed, restarted or down, and its clock
jumps. The router polls, loses events and pauses. Every step is compared with the workers' real state.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.membership import GRACE, TTL, Membership, ProbeAnswer
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.messages import Beat, Snapshot, Version
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

STEP = 0.5
DEATH_BOUND = 5.0
JOIN_BOUND = 2.0
NAMES = "abcd"
LATE = "bd"
"""Workers that beat half a second after the others."""

names = st.sampled_from(NAMES)


class Pool:
    def __init__(self) -> None:
        self.known: set[str] = set()
        self.down: set[str] = set()

    def put(self, *found: Discovered) -> None:
        for one in found:
            self.known.add(one.record.id)
            self.down.discard(one.record.id)

    def remove(self, *worker_ids: str) -> None:
        for worker_id in worker_ids:
            self.known.remove(worker_id)
            self.down.discard(worker_id)

    def report(self, worker_id: str, load: LoadReport) -> None:
        assert worker_id in self.known
        self.down.discard(worker_id)

    def mark_up(self, worker_id: str) -> None:
        assert worker_id in self.known
        self.down.discard(worker_id)

    def mark_suspect(self, worker_id: str) -> None:
        assert worker_id in self.known

    def mark_down(self, worker_id: str) -> None:
        assert worker_id in self.known
        self.down.add(worker_id)


class Agent:
    """The real state of a worker and its agent."""

    def __init__(self, name: str, generation: int, born: float) -> None:
        self.name = name
        self.visible_since = born
        self.generation = generation
        self.count = 0
        self.dead = False
        self.cut_off = False
        """Its agent cannot reach the registry; the worker itself runs."""
        self.unreachable = False
        """This router's probes get no answer; those of others may."""
        self.recovering = False
        """It was cut off and has not beaten since."""
        self.was_in_pool = False
        """It has been in the pool."""
        self.dead_for = 0.0
        """Seconds since its death in which the feed was up and no grace period ran."""
        self.last_beat = 0.0


class Fleet(RuleBasedStateMachine):
    @initialize(unreachable=st.sets(names))
    def begin(self, unreachable: set[str]) -> None:
        self.pool = Pool()
        self.members = Membership(self.pool)
        self.now = 1000.0
        self.workers: dict[str, Agent] = {}
        self.store_up = True
        self.agents_back_at = 0.0
        self.quiet_until = 0.0
        """End of the grace period after the registry returned or was emptied."""
        self.epoch, self.seq, self.collected, self.epochs = "", 0, 0, 0
        self.records: dict[str, Discovered] = {}
        self.beats: dict[str, Beat] = {}
        self.events_lost = False
        self.poll()
        for name in NAMES:
            self.join(name)
            self.workers[name].unreachable = name in unreachable

    # --- the agents' side ---

    def put_record(self, agent: Agent) -> None:
        """Do what the script REGISTER does."""
        present = self.records.get(agent.name)
        if present is not None and present.record.generation > agent.generation:
            return
        if not self.epoch:
            self.epochs += 1
            self.epoch = f"e{self.epochs}"
        self.seq += 1
        agent.count += 1
        record = WorkerRecord(id=agent.name, generation=agent.generation, url="http://127.0.0.1:1")
        self.records[agent.name] = Discovered(record, Endpoint("127.0.0.1", 1))
        self.beats[agent.name] = Beat(agent.generation, agent.count, LoadReport())
        if not self.events_lost:
            version = Version(self.epoch, self.seq)
            self.members.joined(version, agent.name, self.records[agent.name], self.beats[agent.name], self.now)

    def beat(self, agent: Agent, late: float = 0.0) -> None:
        """Do what the script BEAT does, and register again if it returns 0."""
        agent.last_beat = self.now - late
        if not self.store_up or agent.cut_off:
            return
        if agent.recovering:
            agent.recovering, agent.visible_since = False, self.now
        last = self.beats.get(agent.name)
        if last is None or last.generation != agent.generation:
            self.put_record(agent)
            return
        agent.count += 1
        self.beats[agent.name] = Beat(agent.generation, agent.count, LoadReport())
        if not self.events_lost:
            self.members.beat_received(agent.name, self.beats[agent.name], self.now)

    @rule(name=names)
    def join(self, name: str) -> None:
        if name not in self.workers:
            self.workers[name] = Agent(name, 1, self.now)
            self.beat(self.workers[name])
            if name in LATE:
                self.workers[name].last_beat -= 0.5

    @rule(name=names)
    def leave(self, name: str) -> None:
        agent = self.workers.get(name)
        if agent is None or agent.dead or agent.cut_off or not self.store_up or name not in self.records:
            return
        del self.workers[name], self.records[name], self.beats[name]
        self.seq += 1
        if not self.events_lost:
            self.members.left(Version(self.epoch, self.seq), name, agent.generation)

    @rule(name=names)
    def die(self, name: str) -> None:
        if name in self.workers:
            self.workers[name].dead = True

    @rule(name=names)
    def restart(self, name: str) -> None:
        """Start the same worker again, with a newer generation."""
        if name in self.workers:
            self.workers[name] = Agent(name, self.workers[name].generation + 1, self.now)
            self.beat(self.workers[name])

    @rule(name=names, cut_off=st.booleans(), unreachable=st.booleans())
    def network(self, name: str, cut_off: bool, unreachable: bool) -> None:
        agent = self.workers.get(name)
        if agent is not None:
            agent.recovering = agent.recovering or agent.cut_off
            agent.cut_off, agent.unreachable = cut_off, unreachable

    # --- the store's side ---

    def quiet(self) -> None:
        self.quiet_until = max(self.quiet_until, self.now + GRACE + 2 * STEP)

    @rule()
    def flush(self) -> None:
        if self.store_up:
            self.epoch, self.seq, self.collected = "", 0, 0
            self.records.clear()
            self.beats.clear()
            self.quiet()

    @rule(keep=st.booleans())
    def store_dies(self, keep: bool) -> None:
        if not keep:
            self.flush()
        self.store_up = False

    @rule(back_off=st.sampled_from([0.0, 1.0, 4.0]))
    def store_returns(self, back_off: float) -> None:
        """Agents reconnect after a while; after a restart between two polls, within a second."""
        if self.store_up:
            return
        self.store_up = True
        self.quiet()
        wait = back_off if not self.members.feed_up else min(back_off, 1.0)
        for agent in self.workers.values():
            agent.last_beat = self.now + wait - 1.0 + (0.5 if agent.name in LATE else 0.0)
        self.agents_back_at = self.now + wait + 0.5

    @rule()
    def store_clock_jumps(self) -> None:
        """Make every beat look old: all workers are collected and register again."""
        if self.store_up and self.records:
            self.collected += len(self.records)
            self.seq += 1
            self.records.clear()
            self.beats.clear()

    @rule(lost=st.booleans())
    def events(self, lost: bool) -> None:
        self.events_lost = lost

    # --- the router's side ---

    def poll(self) -> None:
        if not self.store_up:
            self.members.poll_failed()
            return
        since, at = self.members.version, Version(self.epoch, self.seq)
        changed = since != at
        snapshot = Snapshot(at, self.collected, dict.fromkeys(self.records, b"") if changed else None, dict(self.beats))
        again = self.members.polled(since, snapshot, dict(self.records) if changed else {}, self.now)
        if again:
            whole = Snapshot(at, self.collected, dict.fromkeys(self.records, b""), dict(self.beats))
            assert not self.members.polled(self.members.version, whole, dict(self.records), self.now)

    def probe(self) -> None:
        for found in self.members.to_probe:
            self.members.probed(found.record.id, self.answer(self.workers.get(found.record.id)), self.now)

    def answer(self, agent: Agent | None) -> ProbeAnswer:
        if agent is None or agent.dead:
            return ProbeAnswer.GONE
        return ProbeAnswer.NONE if agent.unreachable else ProbeAnswer.UP

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for agent in self.workers.values():
                if not agent.dead and self.now - agent.last_beat >= 1.0:
                    self.beat(agent)
                if agent.dead and self.store_up and self.now > self.quiet_until:
                    agent.dead_for += STEP
            self.poll()
            self.probe()
            self.check()

    @rule()
    def poll_at_once(self) -> None:
        self.poll()

    @rule(seconds=st.floats(0.1, 30))
    def router_pauses(self, seconds: float) -> None:
        """Pause this process. Workers live on, and their messages are read at once afterwards."""
        if self.now < self.quiet_until:
            self.quiet_until += seconds
        self.now += seconds
        for agent in self.workers.values():
            if not agent.dead:
                self.beat(agent)
        self.poll()
        self.probe()

    # --- what must hold ---

    @invariant()
    def check(self) -> None:
        for name, agent in self.workers.items():
            agent.was_in_pool = agent.was_in_pool or name in self.pool.known
            if agent.dead:
                out = name in self.pool.down or name not in self.pool.known
                assert out or agent.dead_for <= DEATH_BOUND, f"{name} is dead and not out"
                continue
            hidden = agent.recovering or (agent.cut_off and agent.unreachable)
            if agent.was_in_pool and not hidden and self.now - agent.visible_since > JOIN_BOUND:
                assert name in self.pool.known, f"{name} lives and was removed"
                assert name not in self.pool.down, f"{name} lives and is out"

    @rule()
    def every_worker_joins_in_the_end(self) -> None:
        """Once the registry is up, every worker that can reach it is in the pool within 2 s."""
        if not self.store_up:
            self.store_returns(0.0)
        self.time_passes(JOIN_BOUND + max(0.0, self.agents_back_at - self.now))
        for name, agent in self.workers.items():
            if not agent.dead and not agent.cut_off:
                assert name in self.pool.known
        assert self.pool.down <= self.pool.known


Fleet.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestFleet = Fleet.TestCase

assert TTL < DEATH_BOUND

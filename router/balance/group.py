"""The replicas of one model name, and the candidates among them by tier.

A worker tells its groups when an event changes it: a report, a lost connection, a breaker, a refusal of a model. What
time changes has a due time, which each question compares with the clock. A question thus costs the same for two and a
thousand workers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter
from weakref import WeakValueDictionary

from vllama_pool.router.balance.selector import Condition, Preferred, Selected, Selector, Window
from vllama_pool.router.balance.worker import Replica, Worker
from vllama_pool.workers.registry.record import ModelInfo

PANIC_THRESHOLD = 0.5
"""Below this share of healthy workers, breakers are ignored: the workers are hardly the cause, and the remaining ones
would be overloaded."""

NEVER = float("inf")

Workers = tuple[Worker, ...]

_UP, _DOWN, _HEALTHY, _OFFERING, _UNSUSPECTED = _TIERS = tuple(1 << bit for bit in range(5))
"""A worker's standing: serving and not down; serving and down; of those up: healthy, healthy and offering the model,
not suspect and offering the model."""
_PLAIN = _UP | _HEALTHY | _OFFERING | _UNSUSPECTED

_position = attrgetter("position")


class Group:
    """Replicas in the pool's order of workers. Tuples of candidates are never changed, only replaced."""

    __slots__ = (
        *("__weakref__", "_candidates", "_due", "_info", "_members", "_next_due", "_panics", "_parts", "_serving"),
        *("_stale", "_standings", "_steps", "_tiers", "_window_counts", "condition", "graded", "parent", "prefer"),
        "windows",
    )

    def __init__(
        self, condition: Condition | None = None, parent: Group | None = None, prefer: tuple[str, ...] = ()
    ) -> None:
        """Nothing is computed before the first question: most names of a large fleet are rarely asked for.

        `condition`: of the replicas that it has of those in `parent`.
        """
        self.condition = condition
        self.parent = parent
        self.prefer = prefer
        """Tags of preferred workers."""
        self.windows: tuple[int, ...] = ()
        """The replicas' known context windows in tokens, smallest first."""
        self.graded = False
        """True if some replicas may suit a request better than others: by tags, or by their context windows."""
        self._window_counts: dict[int, int] = {}
        self._parts: WeakValueDictionary[tuple[Condition, tuple[str, ...]], Group] | None = None
        self._steps: dict[tuple[int, int], tuple[Group, ...]] = {}
        self._members: dict[Worker, Replica] = {}  # in order of position
        self._info: ModelInfo | None = None
        self._stale: set[Worker] | None = None  # workers to place; None for all, before the first question
        self._next_due = -NEVER
        self._serving = False
        self._panics = False

    def __repr__(self) -> str:
        return f"<Group of {len(self._members)} replicas>"

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._members)

    def __contains__(self, worker: object) -> bool:
        return worker in self._members

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(self._members.values())

    @property
    def first(self) -> Replica:
        return next(iter(self._members.values()))

    @property
    def info(self) -> ModelInfo:
        """The model's description, preferably by a worker that has read its files. An empty part has the whole's."""
        if self._info is None:
            if not self._members and self.parent is not None:
                return self.parent.info
            models = (replica.model for replica in self._members.values())
            self._info = next((model for model in models if model.digest), self.first.model)
        return self._info

    @property
    def serving(self) -> bool:
        """True if a worker serves, even one that is down."""
        if self._stale is None or self._stale:
            return any(worker.is_open for worker in self._members)
        return self._serving

    def replica(self, worker: Worker) -> Replica:
        return self._members[worker]

    def where(self, selector: Selector) -> Group:
        """Return the part with the selector's workers, which follows this group."""
        return self._part(Selected(selector), selector.prefer)

    @property
    def whole(self) -> Group:
        """The group that this one is a part of, or itself."""
        return self.parent.whole if self.parent is not None else self

    def steps(self, at_least: int, at_most: int) -> tuple[Group, ...]:
        """Return the parts for a prompt of so many tokens, the best first; none without a replica.

        The last one has all replicas but those with a window of less than `at_least`. Of the others, each has a worker
        that those before it lack.
        """
        key = _threshold(self.windows, at_least), _threshold(self.windows, at_most)
        steps = self._steps.get(key)
        if steps is None:
            steps = self._steps[key] = self._divide(*key)
        return steps

    def candidates(self, now: float) -> Workers:
        """Serving, up and healthy workers that offer the model; in a panic, all that are not suspect."""
        if self._stale or now >= self._next_due:
            self._refresh(now)
        return self._candidates

    def panics(self, now: float) -> bool:
        """True if so few workers are healthy that breakers are ignored. False before the first question."""
        if self._stale is None:
            return False
        self.candidates(now)
        return self._panics

    def up(self, now: float) -> Workers:
        """Serving workers that are not down, in any health."""
        self.candidates(now)
        return self._tiers[_UP]

    def down(self, now: float) -> Workers:
        """Serving workers that are down: the cause may be the registry rather than the worker."""
        self.candidates(now)
        return self._tiers[_DOWN]

    def next_change(self, now: float) -> float:
        """Return the time at which the candidates change without an event."""
        self.candidates(now)
        return self._next_due

    # called by the pool and by workers

    def join(self, replica: Replica) -> None:
        """Add a worker, or change its model."""
        worker = replica.worker
        last = next(reversed(self._members), worker)
        known = self._members.get(worker)
        if known is not None:
            self._count_window(known, -1)
        self._count_window(replica, 1)
        self._members[worker] = replica
        if last.position > worker.position:
            self._members = dict(sorted(self._members.items(), key=lambda item: item[0].position))
        for part in self._kept_parts():
            part.follow(replica)
        self._members_changed(worker)

    def leave(self, worker: Worker) -> None:
        self._count_window(self._members.pop(worker), -1)
        for part in self._kept_parts():
            if worker in part._members:
                part.leave(worker)
        self._members_changed(worker)

    def follow(self, replica: Replica) -> None:
        """A replica has joined the parent, or changed there."""
        if self.condition is None or self.condition.admits(replica):
            self.join(replica)
        elif replica.worker in self._members:
            self.leave(replica.worker)

    def changed(self, worker: Worker) -> None:
        """The worker's state, health or refusals may have changed."""
        if self._stale is not None:
            self._stale.add(worker)
        for part in self._kept_parts():
            if worker in part._members:
                part.changed(worker)

    # internal

    def _kept_parts(self) -> tuple[Group, ...]:
        return tuple(self._parts.values()) if self._parts else ()

    def _members_changed(self, worker: Worker) -> None:
        self._info = None
        self._steps = {}
        if self._stale is not None:
            self._stale.add(worker)

    def _count_window(self, replica: Replica, change: int) -> None:
        counts, window = self._window_counts, replica.model.context_length
        before = counts.get(window, 0)
        counts[window] = before + change
        if not before or not counts[window]:
            if not counts[window]:
                del counts[window]
            self.windows = tuple(sorted(counts.keys() - {0}))
            self.graded = bool(self.prefer) or len(counts) > 1

    def _part(self, condition: Condition, prefer: tuple[str, ...]) -> Group:
        if self._parts is None:
            self._parts = WeakValueDictionary()
        part = self._parts.get((condition, prefer))
        if part is None:
            part = self._parts[condition, prefer] = Group(condition, self, prefer)
            for replica in self._members.values():
                part.follow(replica)
        return part

    def _divide(self, at_least: int, at_most: int) -> tuple[Group, ...]:
        large_enough = self._part(Window(at_least, unknown=True), self.prefer) if at_least else self
        ranked = [large_enough._preferred]
        if at_most > at_least:
            fits = self._part(Window(at_most, unknown=False), self.prefer)
            ranked = [fits._preferred, fits, *ranked]
        steps: list[Group] = []
        seen: set[Worker] = set()
        for part in ranked:
            if not seen.issuperset(part):
                steps.append(part)
                seen.update(part)
        if large_enough and not (steps and len(steps[-1]) == len(large_enough)):
            steps.append(large_enough)
        return tuple(steps)

    @property
    def _preferred(self) -> Group:
        return self._part(Preferred(self.prefer), ())

    def _refresh(self, now: float) -> None:
        stale = self._stale
        if stale is not None and now >= self._next_due:
            stale.update(worker for worker, due in self._due.items() if due <= now)
        if stale is None or (len(stale) > 8 and 4 * len(stale) > len(self._members)):
            self._place_all(now)
            return
        for worker in stale:
            self._place(worker, now)
        stale.clear()
        self._choose_tier()

    def _place_all(self, now: float) -> None:
        self._stale = set()
        self._due: dict[Worker, float] = {}
        self._standings = {worker: self._standing(worker, now) for worker in self._members}
        self._tiers = {
            tier: tuple(worker for worker, standing in self._standings.items() if standing & tier) for tier in _TIERS
        }
        self._choose_tier()

    def _choose_tier(self) -> None:
        self._next_due = min(self._due.values(), default=NEVER)
        tiers = self._tiers
        self._panics = len(tiers[_HEALTHY]) < PANIC_THRESHOLD * len(tiers[_UP])
        self._serving = bool(tiers[_UP] or tiers[_DOWN])
        self._candidates: Workers = tiers[_UNSUSPECTED] if self._panics else tiers[_OFFERING]

    def _place(self, worker: Worker, now: float) -> None:
        """Move one worker to the tiers where it belongs now."""
        self._due.pop(worker, None)
        before = self._standings.pop(worker, 0)
        standing = self._standing(worker, now)
        if worker in self._members:
            self._standings[worker] = standing
        if standing == before:
            return
        for tier, workers in self._tiers.items():
            if (standing ^ before) & tier:
                index = bisect_left(workers, worker.position, key=_position)
                after = workers[index:] if standing & tier else workers[index + 1 :]
                here = (worker,) if standing & tier else ()
                self._tiers[tier] = (*workers[:index], *here, *after)

    def _standing(self, worker: Worker, now: float) -> int:
        """Return the worker's standing, and note when time changes it."""
        replica = self._members.get(worker)
        if replica is None or not worker.is_open:
            return 0
        if worker.down:
            return _DOWN
        if worker.is_plain:
            return _PLAIN
        model = replica.model.name
        due = worker.next_change(model, now)
        if due != NEVER:
            self._due[worker] = due
        healthy, offers = worker.health.is_healthy(now), worker.offers(model, now)
        standing = _UP | (_HEALTHY if healthy else 0)
        if offers:
            standing |= (_OFFERING if healthy else 0) | (0 if worker.is_suspect(now) else _UNSUSPECTED)
        return standing


def _threshold(windows: tuple[int, ...], tokens: int) -> int:
    """Return the smallest window for the tokens, 0 if all are large enough; more than the largest if none is."""
    index = bisect_left(windows, tokens)
    if index == 0:
        return 0
    return windows[index] if index < len(windows) else windows[-1] + 1

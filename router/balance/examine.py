"""The candidates of a choice with every term of it, for explanations and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.policy import Policy, Terms
from vllama_pool.router.balance.score import score
from vllama_pool.router.balance.select import Found, find, needed_window
from vllama_pool.router.balance.selector import Selected, has_any
from vllama_pool.router.balance.worker import DRAINING_ASKED, Replica, Worker

_NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One replica in one choice."""

    worker: str
    """Its id."""
    model: str
    """The served name."""
    group: int
    """The place of its target among the resolution's, from 0."""
    left_out: str
    """Why the policy does not see it; "" if it does."""
    score: float
    """Load per speed after one more request: lower is better."""
    in_flight: int
    """Requests of this router process."""
    others: int
    """Requests of other routers, by the worker's latest report."""
    slots: int
    """0 if unknown."""
    full: bool
    speed: float
    """The speed in its score: the measured one if it is full, else the declared one."""
    weight: float
    """Factor of slow start, 0.1 to 1."""
    penalty: float
    """Divisor for recent bad answers; 1 for none."""
    state: str
    """As reported, or "down"."""
    health: str
    """The breaker: "closed", "open" or "half-open"; or "suspect" or "silent"."""
    denied: float
    """Seconds for which it gets no request for the model, as it answered 404."""
    set_aside: str
    """The operators' message; "" if it is not set aside."""
    tags: tuple[str, ...]
    preferred: bool
    """It has a preferred tag."""
    window: int
    """Tokens of its context; 0 if unknown."""
    place: int
    """In the order of the request's key, from 1; 0 without one."""
    limit: float
    """The load that the policy's bound allows it; 0 for no bound."""
    remembered: int
    """Prefixes of the prompt that it received lately."""
    passed_over: bool
    """The policy takes another first: this one is beyond its bound, full, or failing."""

    @property
    def summary(self) -> str:
        """The reason why it is left out, or its score."""
        if self.left_out:
            return self.left_out
        over = f", load {self.in_flight + self.others} of {self.limit:g}" if self.passed_over and self.limit else ""
        return f"{'full, ' if self.full else ''}score {self.score:.2f}{over}"


def examine(
    groups: Sequence[Group], tried: Collection[str], now: float, policy: Policy, demand: Demand = PLAIN
) -> tuple[CandidateView, ...]:
    """Return all replicas of the groups, also those that their selectors leave out, in order.

    It has no effect on the policy. A worker of several groups has a view in each.
    """
    found = find(groups, tried, now, demand)
    terms = policy.terms(found.workers, now, demand) if found is not None else {}
    needed = needed_window(groups, demand)
    views = []
    for index, group in enumerate(groups):
        seen = found if found is not None and found.target == index else None
        for replica in group.whole.replicas:
            worker = replica.worker
            considered = seen is not None and worker in seen.workers
            why = "" if considered else _reason(replica, group, tried, now, needed) or _outranked(worker, seen, found)
            own_terms = terms.get(worker, _NO_TERMS) if considered else _NO_TERMS
            views.append(_view(replica, index, group, why, own_terms, now))
    return tuple(views)


def rejections(
    groups: Sequence[Group], tried: Collection[str], now: float, policy: Policy, demand: Demand = PLAIN
) -> dict[str, str]:
    """Return the reason or the score by worker id. For logs."""
    texts: dict[str, str] = {}
    for view in examine(groups, tried, now, policy, demand):
        if not view.left_out or view.worker not in texts:
            texts[view.worker] = view.summary
    return texts


def _reason(replica: Replica, group: Group, tried: Collection[str], now: float, needed: int) -> str:
    """Return why the worker is not a candidate; "" if it is one."""
    worker = replica.worker
    if worker.id in tried:
        return "tried already"
    if worker not in group:
        return _objection(replica, group)
    if worker.set_aside:
        return "set aside"
    if worker.drained:
        return DRAINING_ASKED
    if not worker.serving:
        return str(worker.state)
    if worker.down:
        return "down"
    health = worker.health.describe(now)
    if health != "closed":
        return health if health in ("suspect", "silent") else f"breaker {health}"
    if not worker.offers(replica.model.name, now):
        return f"answered 404 for {replica.model.name}"
    window = replica.model.context_length
    return f"context window {window} is less than {needed}" if 0 < window < needed else ""


def _objection(replica: Replica, group: Group) -> str:
    condition = group.condition
    return condition.objection(replica) if isinstance(condition, Selected) else "not selected"


def _outranked(worker: Worker, seen: Found | None, found: Found | None) -> str:
    if seen is None:
        return "another target comes first" if found is not None else "no worker is left"
    return "full, and another has a free slot" if worker.full else "others are preferred"


def _view(replica: Replica, index: int, group: Group, left_out: str, terms: Terms, now: float) -> CandidateView:
    worker, model = replica.worker, replica.model
    return CandidateView(
        worker=worker.id,
        model=model.name,
        group=index,
        left_out=left_out,
        score=score(worker, now),
        in_flight=worker.in_flight,
        others=worker.others_load,
        slots=worker.slots,
        full=worker.full,
        speed=worker.speed.full if worker.full else worker.speed.free,
        weight=worker.speed.weight(now),
        penalty=worker.health.penalty(now),
        state="down" if worker.down else str(worker.state),
        health=worker.health.describe(now),
        denied=worker.denied_for(model.name, now),
        set_aside=worker.set_aside,
        tags=worker.record.tags,
        preferred=has_any(replica, group.prefer),
        window=model.context_length,
        place=terms.place,
        limit=terms.limit,
        remembered=terms.remembered,
        passed_over=not terms.admitted,
    )

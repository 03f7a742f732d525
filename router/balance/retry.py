"""The whole retry policy, as decisions about what has happened so far.

Until the first content event a failed attempt may go to another worker: repeating it costs GPU time, never
correctness. What is worth repeating, and what it may cost the fleet, is decided here and nowhere else.

    Lost         at once elsewhere; free while a healthy worker is left, else (and from the second on) budgeted
    Busy         elsewhere, budgeted
    Unavailable  elsewhere, budgeted
    Faulty       once elsewhere, budgeted: a request that breaks workers must not walk through the fleet
    ModelGone    once elsewhere, budgeted
    Refused      never

At most three attempts, on distinct workers. The first goes out again without delay, the next after a jittered one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vllama_pool.router.balance.select import Untried
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, ModelGone, Refused, Unavailable

MAX_ATTEMPTS = 3
SHORTEST, LONGEST = 0.05, 0.5
"""Seconds: bounds of the jittered delay from the second redispatch on."""

_MOST_SPECIFIC_FIRST: tuple[type[AttemptFailed], ...] = (
    Refused,
    Faulty,
    Busy,
    ModelGone,
    Unavailable,
    Lost,
    AttemptFailed,
)
"""Which failure the client is told of, the most telling first: what an engine said beats that one was lost."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has happened to a request so far. Made anew after each failure."""

    failures: tuple[AttemptFailed, ...]
    """Every attempt's, in order; at least one."""
    count_untried: Untried
    """Who is left that was not tried."""
    budget: float
    """Budgeted retries that may be made now: `Budget.left`."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask another worker."""

    delay: float
    """Seconds to wait before."""
    costs: bool
    """Whether it is taken from the budget."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the client."""

    failure: AttemptFailed


def decide(attempts: Attempts, rng: random.Random) -> Retry | GiveUp:
    """All the answers below in one."""
    if stop(attempts):
        return GiveUp(verdict(attempts.failures))
    return Retry(delay=wait(attempts, rng), costs=costs(attempts))


def stop(attempts: Attempts) -> bool:
    """Whether no further attempt is made."""
    failures, count_untried = attempts.failures, attempts.count_untried
    if isinstance(failures[-1], Refused) or len(failures) >= MAX_ATTEMPTS:
        return True
    if any(isinstance(failure, Faulty | ModelGone) for failure in failures[:-1]):
        return True
    if count_untried.healthy + count_untried.last_resort == 0:
        return True
    return costs(attempts) and attempts.budget < 1


def wait(attempts: Attempts, rng: random.Random) -> float:
    """Seconds before the next attempt."""
    return 0.0 if len(attempts.failures) == 1 else rng.uniform(SHORTEST, LONGEST)


def costs(attempts: Attempts) -> bool:
    """Whether the next attempt is taken from the budget. A first lost connection is nobody's overload."""
    failures = attempts.failures
    first_loss = isinstance(failures[-1], Lost) and not any(isinstance(one, Lost) for one in failures[:-1])
    return not (first_loss and attempts.count_untried.healthy > 0)


def verdict(failures: Sequence[AttemptFailed]) -> AttemptFailed:
    """Return the failure that the client sees: the latest of the most specific ones. There is at least one."""
    return min(reversed(failures), key=_specificity)


def _specificity(failure: AttemptFailed) -> int:
    return next(rank for rank, kind in enumerate(_MOST_SPECIFIC_FIRST) if isinstance(failure, kind))

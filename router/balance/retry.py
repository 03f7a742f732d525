"""The retry policy, as pure decisions about the attempts so far.

A failed attempt may be repeated on another worker until the first content event.

    Lost         at once elsewhere; free while a healthy worker is left, else (and from the second on) budgeted
    Busy         elsewhere, budgeted
    Unavailable  elsewhere, budgeted
    Faulty       once elsewhere, budgeted: a request that crashes workers must not reach all of them
    ModelGone    once elsewhere, budgeted
    Refused      never

At most three attempts, on distinct workers. The first retry is immediate, the second has a jittered delay.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vllama_pool.router.balance.select import Untried
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, ModelGone, Refused, Unavailable

MAX_ATTEMPTS = 3
SHORTEST, LONGEST = 0.05, 0.5
"""Seconds: bounds of the jittered delay before the second retry."""

_MOST_SPECIFIC_FIRST: tuple[type[AttemptFailed], ...] = (
    Refused,
    Faulty,
    Busy,
    ModelGone,
    Unavailable,
    Lost,
    AttemptFailed,
)
"""Priority of the failure that the client gets: an engine's own error before a lost connection."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """The failed attempts of a request, and what is left for another."""

    failures: tuple[AttemptFailed, ...]
    """One per attempt, in order; at least one."""
    count_untried: Untried
    """The workers that were not tried."""
    budget: float
    """`Budget.left`."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the request to another worker."""

    delay: float
    """Seconds to wait first."""
    costs: bool
    """True if the retry is paid from the budget."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Return the failure to the client."""

    failure: AttemptFailed


def decide(attempts: Attempts, rng: random.Random) -> Retry | GiveUp:
    """Decide what follows a failed attempt."""
    if stop(attempts):
        return GiveUp(verdict(attempts.failures))
    return Retry(delay=wait(attempts, rng), costs=costs(attempts))


def stop(attempts: Attempts) -> bool:
    """True if no further attempt is allowed."""
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
    """True if the next attempt is paid from the budget. A first lost connection is free: it signals no overload."""
    failures = attempts.failures
    first_loss = isinstance(failures[-1], Lost) and not any(isinstance(one, Lost) for one in failures[:-1])
    return not (first_loss and attempts.count_untried.healthy > 0)


def verdict(failures: Sequence[AttemptFailed]) -> AttemptFailed:
    """Return the failure that the client sees: the latest of the most specific ones. There is at least one."""
    return min(reversed(failures), key=_specificity)


def _specificity(failure: AttemptFailed) -> int:
    return next(rank for rank, kind in enumerate(_MOST_SPECIFIC_FIRST) if isinstance(failure, kind))

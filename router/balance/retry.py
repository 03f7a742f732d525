"""The retry policy, as pure decisions about the attempts so far.

A failed attempt may be repeated on another worker until the first content event.

    Lost         at once elsewhere; free while a healthy worker is left, else (and from the second on) budgeted, unless
                 another request is refused for the losses
    Busy         elsewhere, budgeted
    Unavailable  elsewhere, budgeted
    Faulty       once elsewhere, budgeted: a request that crashes workers must not reach all of them
    Unable       elsewhere, budgeted
    ModelGone    once elsewhere, budgeted
    Refused      never

At most three attempts on distinct workers, or as many as the model's entry says. The first retry is immediate, later
ones have a jittered delay.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vllama_pool.router.balance.select import Untried
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, ModelGone, Refused, Unable, Unavailable

MAX_ATTEMPTS = 3
"""Of a model whose entry says nothing else."""
MIN_DELAY, MAX_DELAY = 0.05, 0.5
"""Seconds before later retries."""

_MOST_SPECIFIC_FIRST: tuple[type[AttemptFailed], ...] = (
    Refused,
    Faulty,
    Busy,
    ModelGone,
    Unable,
    Unavailable,
    Lost,
    AttemptFailed,
)


@dataclass(frozen=True, slots=True)
class Attempts:
    """A request's failed attempts, and the means for another."""

    failures: tuple[AttemptFailed, ...]
    """One per attempt, in order; at least one."""
    untried: Untried
    budget: float
    """`RetryBudget.available`."""
    limit: int = MAX_ATTEMPTS
    """Attempts that the model may have."""
    explained: bool = False
    """The latest failure and an earlier one are engines that another request has crashed, which is refused since."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the request to another worker after `delay` seconds."""

    delay: float
    budgeted: bool
    """True if the retry is paid from the budget."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Return the failure to the client."""

    failure: AttemptFailed


def decide(attempts: Attempts, rng: random.Random) -> Retry | GiveUp:
    if is_final(attempts):
        return GiveUp(most_specific(attempts.failures))
    return Retry(delay=retry_delay(attempts, rng), budgeted=is_budgeted(attempts))


def is_final(attempts: Attempts) -> bool:
    """True if no further attempt is allowed."""
    failures, untried = attempts.failures, attempts.untried
    if isinstance(failures[-1], Refused) or len(failures) >= attempts.limit:
        return True
    if any(isinstance(failure, Faulty | ModelGone) for failure in failures[:-1]):
        return True
    if untried.healthy + untried.last_resort == 0:
        return True
    return is_budgeted(attempts) and attempts.budget < 1


def retry_delay(attempts: Attempts, rng: random.Random) -> float:
    return 0.0 if len(attempts.failures) == 1 else rng.uniform(MIN_DELAY, MAX_DELAY)


def is_budgeted(attempts: Attempts) -> bool:
    """True if the budget pays the next attempt. A first lost connection is free: it signals no overload."""
    failures = attempts.failures
    first_loss = isinstance(failures[-1], Lost) and not any(isinstance(one, Lost) for one in failures[:-1])
    return not ((first_loss or attempts.explained) and attempts.untried.healthy > 0)


def most_specific(failures: Sequence[AttemptFailed]) -> AttemptFailed:
    """Return the failure for the client: an engine's error before a lost connection, and the latest of a kind."""
    return min(reversed(failures), key=_specificity)


def _specificity(failure: AttemptFailed) -> int:
    return next(rank for rank, kind in enumerate(_MOST_SPECIFIC_FIRST) if isinstance(failure, kind))

"""Asks a server everything, one thing after the other, and keeps what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from vllama_pool.router.compat.check import Check
from vllama_pool.router.compat.expect import Differs, Skipped
from vllama_pool.router.compat.target import Target
from vllama_pool.router.compat.wire import BadAnswer, reason

PATIENCE = 3
"""Answers in a row that may stay away before nothing more is asked: each costs a whole time-out."""


class Result(StrEnum):
    """What came of a check, or of a rule."""

    DIFFERS = "differs"
    SKIPPED = "skipped"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check."""

    check: Check
    result: Result
    detail: str = ""
    late: bool = False
    """An answer did not come in time."""


async def run(
    target: Target, checks: Iterable[Check], *, progress: Callable[[Check], None] = lambda _: None
) -> list[Outcome]:
    """Every check's outcome, in order. They run one at a time: what one does must not show in another's answer."""
    outcomes: list[Outcome] = []
    for check in checks:
        if len(outcomes) >= PATIENCE and all(outcome.late for outcome in outcomes[-PATIENCE:]):
            outcomes.append(Outcome(check, Result.SKIPPED, "the server does not answer any more", late=True))
            continue
        progress(check)
        outcomes.append(await look(target, check))
    return outcomes


async def look(target: Target, check: Check) -> Outcome:
    """One check's outcome. A server that does not answer, or not in HTTP, differs."""

    def differs(text: str, *, late: bool = False) -> Outcome:
        return Outcome(check, Result.DIFFERS, f"{target.last}: {text}" if target.last else text, late)

    target.last = ""
    try:
        await check.ask(target)
    except Skipped as skipped:
        return Outcome(check, Result.SKIPPED, str(skipped))
    except (Differs, BadAnswer) as difference:
        return differs(str(difference))
    except TimeoutError:
        return differs("expected an answer; none came in time", late=True)
    except OSError as error:
        return differs(f"expected an answer; got none: {reason(error)}")
    return Outcome(check, Result.SAME)

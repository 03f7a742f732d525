"""Runs checks against a server, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.expect import Differs, Skipped
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import InvalidResponse, reason

MAX_TIMEOUTS = 3
"""Consecutive time-outs that end the run."""


class Result(StrEnum):
    DIFFERS = "differs"
    SKIPPED = "skipped"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Outcome:
    check: Check
    result: Result
    detail: str = ""
    timed_out: bool = False


async def run(
    server: CheckedServer, checks: Iterable[Check], *, progress: Callable[[Check], None] = lambda _: None
) -> list[Outcome]:
    """One at a time, because a check may change what another one observes."""
    outcomes: list[Outcome] = []
    for check in checks:
        if len(outcomes) >= MAX_TIMEOUTS and all(outcome.timed_out for outcome in outcomes[-MAX_TIMEOUTS:]):
            outcomes.append(Outcome(check, Result.SKIPPED, "the server has stopped answering", timed_out=True))
            continue
        progress(check)
        outcomes.append(await run_check(server, check))
    return outcomes


async def run_check(server: CheckedServer, check: Check) -> Outcome:
    """A server that does not answer in HTTP differs."""

    def differs(text: str, *, timed_out: bool = False) -> Outcome:
        return Outcome(
            check, Result.DIFFERS, f"{server.last_request}: {text}" if server.last_request else text, timed_out
        )

    server.last_request = ""
    try:
        await check.run(server)
    except Skipped as skipped:
        return Outcome(check, Result.SKIPPED, str(skipped))
    except (Differs, InvalidResponse) as difference:
        return differs(str(difference))
    except TimeoutError:
        return differs("expected an answer; timed out", timed_out=True)
    except OSError as error:
        return differs(f"expected an answer; got none: {reason(error)}")
    return Outcome(check, Result.SAME)

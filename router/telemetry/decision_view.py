"""The decisions of `GET /admin/decisions` and of `vllama explain --request`, made from the store when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vllama_pool.router.telemetry.decisions import Choice, Decision, Decisions

DECISIONS = "decisions"
"""Name of the report of a process's decisions."""
NO_WORKER = "no_worker"
"""A reason for a fallback."""
ONE_DECISION = "decision"
"""Name of the question for one decision; its argument is a request id."""


class ComparedView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker that the policy compared."""

    worker: str
    score: float
    """Lower is better."""
    full: bool = False
    load: int = 0
    """Requests in it, of all routers, without this one."""


class AttemptView(msgspec.Struct, frozen=True, omit_defaults=True):
    worker: str
    failure: str = ""
    """Error class; "" if it did not fail before the client's response began."""
    candidates: int = 1
    compared: tuple[ComparedView, ...] = ()
    """The candidates with their scores, if they are few; else the chosen one."""


class FallbackView(msgspec.Struct, frozen=True):
    reason: str
    target: str
    attempts: int
    """Attempts before the move."""


class DecisionView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request. The request log's record, without the client's address."""

    id: str
    time: float
    """Unix time of its arrival, in seconds."""
    operation: str
    requested: str
    """The name in the request, cut to 120 characters."""
    model: str = ""
    """The entry of the routing file, or the served model; "" if unknown."""
    served: str = ""
    worker: str = ""
    key: str = ""
    """The API key's name."""
    team: str = ""
    place: str = ""
    """FILE:LINE of the entry."""
    virtual: str = ""
    """The virtual model that was requested."""
    target: str = ""
    """The target that was drawn, whatever answered; "" if the request was refused before."""
    shares: dict[str, float] = {}
    """Of all targets, if the draw was random."""
    split: str = ""
    """The trait that keeps its side of the targets; "" if there is one target only."""
    identity: str = ""
    """Hash that decides the side of a split, in 16 hex digits."""
    bytes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queued_ms: float = 0.0
    first_ms: float = 0.0
    total_ms: float = 0.0
    status: int = 0
    outcome: str = ""
    """"" while it runs."""
    attempts: tuple[AttemptView, ...] = ()
    fallbacks: tuple[FallbackView, ...] = ()


class ProcessDecisions(msgspec.Struct, frozen=True):
    """All decisions that a router process knows, oldest first."""

    decisions: tuple[DecisionView, ...]


class Reach(msgspec.Struct, frozen=True):
    """The extent of the stores."""

    kept: int
    limit: int
    """0 if decisions are not kept."""
    since: float = 0.0
    """Unix time of the oldest; 0 for an empty store."""


class FoundDecision(msgspec.Struct, frozen=True):
    """The answer of one process to the question for a request id."""

    reach: Reach
    decision: DecisionView | None = None


def view_decision(decision: Decision, offset: int) -> DecisionView:
    """`offset`: Unix time minus monotonic time, in nanoseconds."""
    record = decision.record
    failures = record.failures
    attempts = (
        _view_attempt(choice, failures[index] if index < len(failures) else "")
        for index, choice in enumerate(decision.choices)
    )
    return DecisionView(
        **_route(decision),
        id=record.id,
        time=_unix(decision, offset),
        operation=record.operation,
        requested=record.requested,
        model=record.model,
        served=record.served,
        worker=record.worker,
        key=record.client,
        team=record.team,
        identity=f"{decision.identity:016x}" if decision.identity else "",
        bytes=decision.size,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        queued_ms=record.queue_ms,
        first_ms=record.first_ms,
        total_ms=record.total_ms,
        status=record.status,
        outcome=record.outcome,
        attempts=tuple(attempts),
        fallbacks=tuple(FallbackView(move.reason, move.target, move.attempts) for move in decision.record.fallbacks),
    )


def view_decisions(decisions: Decisions, offset: int) -> ProcessDecisions:
    return ProcessDecisions(tuple(view_decision(decision, offset) for decision in decisions))


def find_decision(decisions: Decisions, request_id: str, offset: int) -> FoundDecision:
    decision = decisions.find(request_id)
    oldest = next(iter(decisions), None)
    reach = Reach(len(decisions), decisions.limit, _unix(oldest, offset) if oldest is not None else 0.0)
    return FoundDecision(reach, view_decision(decision, offset) if decision is not None else None)


def merge_found(found: Mapping[int, FoundDecision]) -> FoundDecision:
    """Merge the answers of all processes: the latest decision, and the extent of all stores together."""
    reaches = [answer.reach for answer in found.values()]
    decisions = [answer.decision for answer in found.values() if answer.decision is not None]
    begins = [reach.since for reach in reaches if reach.kept]
    reach = Reach(sum(reach.kept for reach in reaches), sum(reach.limit for reach in reaches), min(begins, default=0.0))
    return FoundDecision(reach, max(decisions, key=lambda decision: decision.time, default=None))


def json_lines(reports: Iterable[ProcessDecisions]) -> bytes:
    """Encode the decisions of all processes, oldest first."""
    decisions = (decision for report in reports for decision in report.decisions)
    encode = msgspec.json.Encoder().encode_lines
    return encode(sorted(decisions, key=lambda decision: decision.time))


def _view_attempt(choice: Choice, failure: str) -> AttemptView:
    compared = (
        ComparedView(worker.id, round(rank if rank > 0 else -1 / rank, 3), rank > 0, load)
        for worker, rank, load in zip(choice.compared, choice.ranks, choice.loads, strict=True)
    )
    return AttemptView(choice.worker, failure, choice.candidates, tuple(compared))


def _route(decision: Decision) -> dict[str, Any]:
    resolution, moves = decision.resolution, decision.record.fallbacks
    if resolution is None:
        return {}
    shares = dict(resolution.shares)
    split = resolution.split if len(shares) > 1 else ""
    stand_in = bool(moves) and moves[0].reason == NO_WORKER and not moves[0].attempts
    return {
        "place": resolution.place,
        "virtual": resolution.virtual,
        "target": decision.record.served if stand_in else resolution.target,
        "shares": shares if len(shares) > 1 and not decision.identity and not stand_in else {},
        "split": split,
    }


def _unix(decision: Decision, offset: int) -> float:
    return round((decision.arrived + offset) / 1e9, 3)

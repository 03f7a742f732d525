"""The text of `vllama explain --request`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from vllama_pool.router.cli.columns import aligned
from vllama_pool.router.telemetry.decision_view import AttemptView, ComparedView, DecisionView


def decision_text(decision: DecisionView) -> str:
    lines = [f"request {decision.id}", *(f"  {line}" for line in aligned(_facts(decision)))]
    if decision.attempts:
        rows = [_attempt(number, attempt, decision) for number, attempt in enumerate(decision.attempts, 1)]
        lines += ["  attempts", *(f"    {line}" for line in aligned(rows))]
    return "\n".join(lines)


def _facts(decision: DecisionView) -> Iterator[tuple[str, str]]:
    arrived = datetime.fromtimestamp(decision.time, UTC)
    yield "arrived", f"{arrived:%Y-%m-%d %H:%M:%S UTC}"
    yield "operation", decision.operation
    yield "asked for", decision.requested
    yield "model", _rule(decision)
    if decision.target:
        yield "target", _target(decision)
    if decision.served:
        yield "served by", f"{decision.served} on {decision.worker}"
    for move in decision.fallbacks:
        yield "fallback", f"to {move.target}, because of {move.reason}, after {_count(move.attempts, 'attempt')}"
    if decision.key:
        yield "key", f"{decision.key} of team {decision.team}" if decision.team else decision.key
    if decision.identity:
        yield "identity", f"hash {decision.identity}"
    yield "sizes", _sizes(decision)
    yield "times", _times(decision)
    yield "result", f"{decision.status} {decision.outcome}" if decision.outcome else "still running"


def _rule(decision: DecisionView) -> str:
    if not decision.model:
        return "unknown"
    return f"{decision.model} by {decision.place}" if decision.place else decision.model


def _target(decision: DecisionView) -> str:
    if not decision.split:
        return decision.target
    kept = "drawn at random" if decision.shares else f"kept by the {decision.split}"
    return f"{decision.target}, {kept}"


def _sizes(decision: DecisionView) -> str:
    parts = [f"body of {decision.bytes:,} bytes"]
    if decision.prompt_tokens or decision.completion_tokens:
        parts.append(f"{decision.prompt_tokens:,} prompt tokens, {decision.completion_tokens:,} in the answer")
    return ", ".join(parts)


def _times(decision: DecisionView) -> str:
    named = {"queue": decision.queued_ms, "first content": decision.first_ms, "total": decision.total_ms}
    return ", ".join(f"{name} {value:,.1f} ms" for name, value in named.items() if value or name == "queue")


def _attempt(number: int, attempt: AttemptView, decision: DecisionView) -> tuple[str, str, str, str]:
    last = number == len(decision.attempts)
    result = f"failed: {attempt.failure}" if attempt.failure else decision.outcome or "running" if last else ""
    compared = ", ".join(map(_compared, attempt.compared))
    return str(number), attempt.worker, result, f"of {attempt.candidates}: {compared}" if compared else ""


def _compared(each: ComparedView) -> str:
    return f"{each.worker} score {each.score:.2f} load {each.load}{' full' if each.full else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

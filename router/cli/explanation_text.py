"""The text of `vllama explain MODEL`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vllama_pool.config.printable import printable
from vllama_pool.router.balance.examine import CandidateView
from vllama_pool.router.cli.columns import aligned
from vllama_pool.router.routing.explain import (
    BY_ALIAS,
    BY_NAME,
    BY_PATTERN,
    ROUTED,
    UNKNOWN,
    WAITS,
    Explanation,
    FallbackView,
    RuleView,
    TargetView,
)

CHOSEN, OTHER = "*", " "
_EACH_REQUEST = "request"


def explanation_text(explanation: Explanation, *, live: bool = True) -> str:
    """`live`: by a running router. Without one, nothing is known of workers."""
    lines = [printable(_title(explanation, live)), *_indented(aligned(_facts(explanation)))]
    if explanation.targets:
        rows = [_target(target, live) for target in explanation.targets]
        lines += ["targets", *_indented(aligned(rows, right=(2, 3)))]
    if explanation.candidates and live:
        rows = [_candidate(each, explanation) for each in explanation.candidates]
        lines += ["candidates", *_indented(aligned(rows))]
    if explanation.fallbacks:
        lines += [
            "fallbacks",
            *_indented(aligned(_fallback(each, explanation, live) for each in explanation.fallbacks)),
        ]
    return "\n".join(lines)


def _title(explanation: Explanation, live: bool) -> str:
    if explanation.outcome == UNKNOWN:
        return f"{explanation.requested}: {explanation.error}"
    if explanation.outcome == WAITS:
        return f"{explanation.requested} waits for a worker to join: {explanation.error}"
    if explanation.outcome != ROUTED:
        return f"{explanation.requested} is refused: {explanation.error}"
    if not live:
        return f"{explanation.requested} goes to {_drawn(explanation)}"
    if not explanation.chosen:
        return f"{explanation.requested}: no worker is large enough"
    return f"{explanation.requested} goes to {explanation.chosen_model} on {explanation.chosen}"


def requests_text(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _drawn(explanation: Explanation) -> str:
    """Return the target; all that a draw may give, if it is random."""
    if explanation.identity or len(explanation.targets) == 1:
        return next((target.model for target in explanation.targets if target.first), "no target")
    drawn = [f"{target.model} ({target.share:.1%})" for target in explanation.targets if target.share]
    return " or ".join(drawn)


def _facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    if explanation.outcome == UNKNOWN and explanation.near:
        yield "near", ", ".join(explanation.near)
    rule = explanation.rule
    if rule is not None:
        yield "rule", _rule(rule)
        if rule.virtual:
            yield "virtual", f"{rule.virtual} is a virtual model; its base decides"
        if rule.policy:
            yield "policy", _policy(rule)
    if explanation.stand_in:
        yield "stand-in", f"{explanation.stand_in}, because no worker serves the model itself"
    if explanation.split:
        yield "split", _split(explanation)
    for name, value in (rule.settings if rule is not None else {}).items():
        if name != "policy":
            yield name, _value(value)
    if explanation.waiting:
        yield "waiting", requests_text(explanation.waiting)
    if explanation.revision:
        yield "revision", explanation.revision


def _rule(rule: RuleView) -> str:
    if rule.by == BY_NAME:
        why = "its name"
    elif rule.by == BY_ALIAS:
        why = f"its alias '{rule.matched}'"
    elif rule.by == BY_PATTERN:
        why = "the pattern"
        if rule.captures:
            why += " with " + ", ".join(f"{{{number}}} = '{text}'" for number, text in enumerate(rule.captures, 1))
    else:
        return f"none: workers serve '{rule.entry}' under this name"
    return f"'{rule.entry}'{f' at {rule.place}' if rule.place else ''}, by {why}"


def _policy(rule: RuleView) -> str:
    """Such as "session by user"."""
    settings = rule.settings.get("policy")
    if not isinstance(settings, dict):
        return rule.policy
    return " ".join([rule.policy, *(f"{name} {_value(value)}" for name, value in settings.items() if name != "type")])


def _split(explanation: Explanation) -> str:
    if explanation.split == _EACH_REQUEST:
        return "each request is drawn anew"
    if not explanation.identity:
        return f"by {explanation.split}; without one, each request is drawn anew"
    return f"by {explanation.split}; this one's hash {explanation.identity} keeps its side"


def _target(target: TargetView, live: bool) -> tuple[str, ...]:
    cells = (
        CHOSEN if target.first else OTHER,
        target.model,
        f"weight {target.weight}",
        f"{target.share:.1%}",
    )
    workers = (_count(target.workers, "worker"),) if live else ()
    return (*cells, *workers, _value(target.selector) if target.selector else "")


def _candidate(view: CandidateView, explanation: Explanation) -> tuple[str, ...]:
    chosen = view.worker == explanation.chosen and view.model == explanation.chosen_model and not view.left_out
    if view.left_out:
        return OTHER, view.worker, view.model, "left out", "", view.left_out
    load = view.in_flight + view.others
    return (
        CHOSEN if chosen else OTHER,
        view.worker,
        view.model,
        f"score {view.score:.2f}",
        f"load {load}/{view.slots or '?'}{' full' if view.full else ''}",
        ", ".join(_terms(view)),
    )


def _terms(view: CandidateView) -> Iterator[str]:
    """Yield the terms that differ from those of a plain worker."""
    if view.others:
        yield f"{view.in_flight} of this router"
    if view.speed != 1:
        yield f"speed {view.speed:.2f}"
    if view.weight < 1:
        yield f"slow start {view.weight:.2f}"
    if view.penalty != 1:
        yield f"penalty {view.penalty:.2f} for recent errors"
    if view.health != "closed":
        yield view.health if view.health in ("suspect", "silent") else f"breaker {view.health}"
    if view.state != "ready":
        yield view.state
    if view.window:
        yield f"context {view.window}"
    if view.place:
        yield f"place {view.place}"
    if view.limit:
        yield f"load limit {view.limit:g}"
    if view.remembered:
        yield f"{view.remembered} known prefixes"
    if view.preferred:
        yield "preferred"
    if view.passed_over:
        yield "passed over"
    if view.tags:
        yield f"tags {' '.join(view.tags)}"


def _fallback(view: FallbackView, explanation: Explanation, live: bool) -> tuple[str, str]:
    chain = ", then ".join(view.chain)
    if not live or (explanation.outcome != ROUTED and not view.serving):
        return view.reason, chain if not live else f"{chain}; none has a worker now"
    first = f"{view.serving[0]} would answer now" if view.serving else "none has a worker now"
    return view.reason, f"{chain}; {first}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_value(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]

"""The result of `vllama check --against`: a view for JSON, and its text."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from vllama_pool.router.cli.columns import aligned
from vllama_pool.router.routing.replay import Comparison

MAX_ROWS = 20
"""Rows of each table of the text. JSON has all."""


class MoveView(msgspec.Struct, frozen=True):
    requested: str
    rule_before: str
    rule_after: str
    before: str
    """The served model."""
    after: str
    requests: float
    """A fraction where requests are drawn at random."""
    share: float
    """Of the requests for this name."""
    random: bool
    """True for the expected number of a random draw, false for a count of certain requests."""


class RefusalView(msgspec.Struct, frozen=True):
    requested: str
    rule_before: str
    reason: str
    requests: int
    keys: dict[str, int]
    """Requests by the name of their API key; "" without one."""


class RuleChangeView(msgspec.Struct, frozen=True):
    requested: str
    before: str
    after: str
    requests: int


class ComparisonView(msgspec.Struct, frozen=True):
    """The changes that another routing file would make for recorded requests."""

    requests: int
    unchanged: float
    moved: float
    unroutable: int
    newly_routable: int
    still_refused: int
    moves: tuple[MoveView, ...] = ()
    """Largest first."""
    refusals: tuple[RefusalView, ...] = ()
    rules: tuple[RuleChangeView, ...] = ()
    admitted: dict[str, int] = {}
    live: bool = True
    """By the workers of a running router. False: as if a worker served each target."""


def view_comparison(comparison: Comparison, *, live: bool) -> ComparisonView:
    moves = (
        MoveView(*move, round(count, 3), round(count / comparison.by_name[move.requested], 4), move in comparison.drawn)
        for move, count in comparison.moves.items()
    )
    refusals = (
        RefusalView(*refusal, count, dict(comparison.refused_keys[refusal].most_common()))
        for refusal, count in comparison.refusals.items()
    )
    changes = (RuleChangeView(*change, count) for change, count in comparison.rules.items())
    return ComparisonView(
        requests=comparison.requests,
        unchanged=round(comparison.unchanged, 3),
        moved=round(comparison.moved, 3),
        unroutable=comparison.refusals.total(),
        newly_routable=comparison.admitted.total(),
        still_refused=comparison.still_refused,
        moves=tuple(sorted(moves, key=lambda move: (-move.requests, move))),
        refusals=tuple(sorted(refusals, key=lambda refusal: (-refusal.requests, refusal.requested))),
        rules=tuple(sorted(changes, key=lambda change: (-change.requests, change.requested))),
        admitted=dict(comparison.admitted.most_common()),
        live=live,
    )


def comparison_text(view: ComparisonView) -> str:
    assumed = "" if view.live else ", as if a worker served each target; --against last asks a running router"
    title = f"{view.requests:,} recorded requests{assumed}"
    return "\n".join([title, *_summary(view), *_refusals(view), *_moves(view), *_rules(view)])


def _summary(view: ComparisonView) -> list[str]:
    counts = {
        "unchanged": view.unchanged,
        "moved to another target": view.moved,
        "become unroutable": view.unroutable,
        "become routable": view.newly_routable,
        "refused before and after": view.still_refused,
    }
    always = ("unchanged", "moved to another target", "become unroutable")
    rows = [
        (name, _number(count), f"{count / view.requests:.1%}" if view.requests else "")
        for name, count in counts.items()
        if count or name in always
    ]
    return _indented(aligned(rows, right=(1, 2)))


def _refusals(view: ComparisonView) -> Iterator[str]:
    if view.refusals:
        yield "unroutable"
        rows = [(each.requested, f"{each.requests:,}", each.reason, _keys(each)) for each in view.refusals[:MAX_ROWS]]
        yield from _indented([*aligned(rows, right=(1,)), *_more(len(view.refusals))])


def _moves(view: ComparisonView) -> Iterator[str]:
    if view.moves:
        yield "moved"
        rows = [
            (
                move.requested,
                _number(move.requests),
                f"{move.share:.1%}",
                f"{move.before} -> {move.after}",
                "expected of a random draw" if move.random else "",
            )
            for move in view.moves[:MAX_ROWS]
        ]
        yield from _indented([*aligned(rows, right=(1, 2)), *_more(len(view.moves))])


def _rules(view: ComparisonView) -> Iterator[str]:
    if view.rules:
        yield "decided by another rule"
        rows = [
            (change.requested, f"{change.requests:,}", f"{_rule(change.before)} -> {_rule(change.after)}")
            for change in view.rules[:MAX_ROWS]
        ]
        yield from _indented([*aligned(rows, right=(1,)), *_more(len(view.rules))])


def _rule(name: str) -> str:
    return name or "none"


def _keys(refusal: RefusalView) -> str:
    named = ", ".join(f"{name or 'no key'} {count:,}" for name, count in refusal.keys.items())
    return f"keys: {named}" if any(refusal.keys) else ""


def _number(count: float) -> str:
    return f"{count:,.0f}" if count == round(count) else f"{count:,.1f}"


def _more(count: int) -> list[str]:
    return [f"and {count - MAX_ROWS} more; --json has all"] if count > MAX_ROWS else []


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]

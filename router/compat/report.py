"""The report: table, summary line and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from vllama_pool.router.compat.columns import add_row, plain, plain_table
from vllama_pool.router.compat.rules.rule import Rule
from vllama_pool.router.compat.runner import Outcome, Result

WIDE = 160
"""Terminal columns from which details have their own table column."""
MAX_DETAILS = 2
"""Differences shown per rule."""
_WORDS = {Result.DIFFERS: "differs", Result.SKIPPED: "skipped", Result.SAME: "as Ollama"}


@dataclass(frozen=True, slots=True)
class Row:
    rule: Rule
    result: Result
    detail: str = ""


def by_rule(outcomes: Iterable[Outcome], rules: Iterable[Rule]) -> list[Row]:
    """Return one row per checked rule: rules that differ first, then skipped ones.

    A rule differs if one of its checks does. It is skipped if all of them are.
    """
    found: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        for number in outcome.check.rules:
            found.setdefault(number, []).append(outcome)
    rows = [_row(rule, found[rule.number]) for rule in rules if rule.number in found]
    return sorted(rows, key=lambda row: (list(Result).index(row.result), row.rule.number))


def _row(rule: Rule, outcomes: Sequence[Outcome]) -> Row:
    results = {outcome.result for outcome in outcomes}
    result = next(result for result in (Result.DIFFERS, Result.SAME, Result.SKIPPED) if result in results)
    details = list(dict.fromkeys(o.detail for o in outcomes if o.result is result and o.detail))
    more = [f"and {len(details) - MAX_DETAILS} more"] if len(details) > MAX_DETAILS else []
    return Row(rule, result, "; ".join([*details[:MAX_DETAILS], *more]))


def table(rows: Sequence[Row], width: int) -> Table:
    wide = width >= WIDE
    found = plain_table("RULE", "", "ABOUT", "DETAIL") if wide else plain_table("RULE", "", "ABOUT")
    for column in found.columns:
        column.overflow = "fold"
    for column in found.columns[:2]:
        column.no_wrap = True
    for row in rows:
        texts = (plain(row.rule.title), plain(row.detail))
        cells = texts if wide else (Text("\n").join(filter(None, texts)),)
        add_row(found, row.rule.name, _WORDS[row.result], *cells)
    return found


def summary_line(rows: Sequence[Row], not_checked: int, need_writes: int = 0) -> str:
    """`not_checked`: rules without a check. `need_writes`: rules whose checks need --writes."""
    counts = count(rows)
    text = f"{len(rows)} {'rule' if len(rows) == 1 else 'rules'} checked: {counts[Result.SAME]} as Ollama"
    text += f", {counts[Result.DIFFERS]} {'differs' if counts[Result.DIFFERS] == 1 else 'differ'}"
    if counts[Result.SKIPPED]:
        text += f", {counts[Result.SKIPPED]} skipped"
    text += f"; {need_writes} more with --writes" if need_writes else ""
    return text + (f"; {not_checked} not checked, --list says why" if not_checked else "")


def count(rows: Iterable[Row]) -> dict[Result, int]:
    found = dict.fromkeys(Result, 0)
    for row in rows:
        found[row.result] += 1
    return found


def json_report(url: str, models: dict[str, str], rows: Sequence[Row], not_checked: int) -> dict[str, Any]:
    counts = count(rows)
    return {
        "url": url,
        "models": models,
        "counts": {**{result.value: counts[result] for result in Result}, "not_checked": not_checked},
        "rules": [
            {
                "rule": row.rule.name,
                "group": row.rule.group,
                "title": row.rule.title,
                "result": row.result.value,
                "detail": row.detail,
            }
            for row in rows
        ],
    }

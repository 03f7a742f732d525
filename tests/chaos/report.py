"""The table of a run, as text and as markdown. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields

from tests.chaos.row import Finding, Row

HEAD = ("row", "fault", "requests", "lost", "errors", "allowed errors", "recovery", "result")


def result(finding: Finding) -> str:
    if finding.skipped:
        return f"skipped: {finding.skipped}"
    return "pass" if finding.passed else "FAIL"


def cells(finding: Finding) -> tuple[str, ...]:
    row = finding.row
    recovered = "-" if finding.recovered is None else f"{finding.recovered:.1f} s"
    allowed = ", ".join(sorted(row.allowed)) or "none"
    lost = f"{finding.lost} (allowed)" if row.may_lose else str(finding.lost)
    ran = (str(finding.requests), lost, finding.errors or "0", allowed, recovered)
    shown = ("-",) * len(ran) if finding.skipped else ran
    return (row.name, row.fault, *shown, result(finding))


def table(findings: Sequence[Finding]) -> str:
    rows = [HEAD, *map(cells, findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def summary(findings: Sequence[Finding]) -> str:
    ran = [finding for finding in findings if not finding.skipped]
    passed = sum(finding.passed for finding in ran)
    lost = sum(finding.lost for finding in ran if not finding.row.may_lose)
    slowest = max((finding.recovered or 0.0 for finding in ran), default=0.0)
    return (
        f"{passed} of {len(ran)} rows passed, {len(findings) - len(ran)} skipped; "
        f"{sum(finding.requests for finding in ran)} requests, {lost} lost; slowest recovery {slowest:.1f} s"
    )


def dump(finding: Finding) -> str:
    """Return a line for a file of findings."""
    members = {each.name: getattr(finding, each.name) for each in fields(finding)}
    return json.dumps({**members, "row": finding.row.name}) + "\n"


def load(lines: str, rows: Iterable[Row]) -> list[Finding]:
    """Return the latest finding of each row. Raises KeyError for a row that does not exist."""
    by_name = {row.name: row for row in rows}
    latest = {each["row"]: each for each in map(json.loads, lines.splitlines())}
    lists = ("problems", "notes")
    return [
        Finding(**{**each, "row": by_name[name], **{one: tuple(each[one]) for one in lists}})
        for name, each in latest.items()
    ]


def details(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines += [f"{finding.row.name}: {problem}" for problem in finding.problems]
        lines += [f"{finding.row.name}: {note}" for note in finding.notes]
    return "\n".join(lines)


def markdown(findings: Sequence[Finding], *, full: bool, patience: float = 1.0) -> str:
    size = "full" if full else "small"
    bounds = "" if patience == 1 else f", with bounds of time x {patience:g}"
    head = ("row", "fault", "what it proves", *HEAD[2:])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for finding in findings:
        name, fault, *rest = cells(finding)
        lines.append(f"| {' | '.join((name, fault, finding.row.proves, *rest))} |")
    return f"The {size} matrix{bounds}: {summary(findings)}.\n\n" + "\n".join(lines) + "\n"

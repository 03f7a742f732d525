"""The table of a run, as text and as markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.chaos.row import Finding

HEAD = ("row", "fault", "requests", "lost", "errors", "recovery", "result")


def result(finding: Finding, missing: Mapping[str, str]) -> str:
    if finding.skipped:
        return f"skipped: {finding.skipped}"
    if finding.passed:
        return "pass (but listed as missing)" if finding.row.name in missing else "pass"
    return f"FAIL (missing: {missing[finding.row.name]})" if finding.row.name in missing else "FAIL"


def cells(finding: Finding, missing: Mapping[str, str]) -> tuple[str, ...]:
    recovered = "-" if finding.recovered is None else f"{finding.recovered:.1f} s"
    allowed = ", ".join(sorted(finding.row.allowed)) or "none"
    errors = f"{finding.errors or '0'} (allowed: {allowed})"
    ran = (str(finding.requests), str(finding.lost), errors, recovered)
    shown = ("-",) * len(ran) if finding.skipped else ran
    return (finding.row.name, finding.row.fault, *shown, result(finding, missing))


def table(findings: Sequence[Finding], missing: Mapping[str, str]) -> str:
    rows = [HEAD, *(cells(finding, missing) for finding in findings)]
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


def details(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines += [f"{finding.row.name}: {problem}" for problem in finding.problems]
        lines += [f"{finding.row.name}: {note}" for note in finding.notes]
    return "\n".join(lines)


def markdown(findings: Sequence[Finding], missing: Mapping[str, str], *, full: bool) -> str:
    size = "full" if full else "small"
    head = ("row", "fault", "what it proves", *HEAD[2:])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for finding in findings:
        name, fault, *rest = cells(finding, missing)
        lines.append(f"| {' | '.join((name, fault, finding.row.proves, *rest))} |")
    return f"The {size} matrix: {summary(findings)}.\n\n" + "\n".join(lines) + "\n"

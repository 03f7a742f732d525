"""The table of rules in docs/ollama-compatibility.md."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.rules.rule import Rule


def markdown(rules: Iterable[Rule] = RULES) -> str:
    """Count the rules per group, by how they are verified."""
    lines = [
        "| about | rules | checked by `vllama compat` | not observable | not implemented |",
        "|---|---|---|---|---|",
    ]
    total = [0, 0, 0, 0]
    for group, members in groupby(sorted(rules, key=lambda rule: rule.group_order), key=lambda rule: rule.group):
        group_rules = list(members)
        counts = [
            len(group_rules),
            sum(rule.has_checks for rule in group_rules),
            sum(bool(rule.unobservable) for rule in group_rules),
            sum(bool(rule.not_implemented) for rule in group_rules),
        ]
        total = [old + new for old, new in zip(total, counts, strict=True)]
        reasons = "; ".join(sorted({rule.not_implemented for rule in group_rules} - {""}))
        about = f"{group} ({spans(rule.number for rule in group_rules)})"
        not_implemented = f"{counts[3]}: {reasons}" if reasons else "0"
        lines.append(f"| {about} | {counts[0]} | {counts[1]} | {counts[2]} | {not_implemented} |")
    lines.append(f"| all | {total[0]} | {total[1]} | {total[2]} | {total[3]} |")
    return "\n".join(lines) + "\n"


def spans(numbers: Iterable[int]) -> str:
    """Format as ranges, such as "R001-R026, R035"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number, number])
    return ", ".join(f"R{first:03}" if first == last else f"R{first:03}-R{last:03}" for first, last in ranges)

"""The list of all rules of Ollama's API, R001 to R201. Tests and docstrings refer to rules by these numbers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from vllama_pool.router.compat.rule import Rule
from vllama_pool.router.compat.rules_endpoints import ENDPOINTS
from vllama_pool.router.compat.rules_everywhere import EVERYWHERE

RULES: tuple[Rule, ...] = (*ENDPOINTS, *EVERYWHERE)
"""In order of their numbers."""


def markdown(rules: Iterable[Rule] = RULES) -> str:
    """The table in docs/ollama-compatibility.md: rules per group, by how they are verified."""
    lines = [
        "| about | rules | checked by `vllama compat` | tested inside | not implemented |",
        "|---|---|---|---|---|",
    ]
    total = [0, 0, 0, 0]
    for group, found in groupby(sorted(rules, key=lambda rule: rule.group_order), key=lambda rule: rule.group):
        members = list(found)
        counts = [
            len(members),
            sum(rule.outside for rule in members),
            sum(bool(rule.inside) for rule in members),
            sum(bool(rule.left_out) for rule in members),
        ]
        total = [old + new for old, new in zip(total, counts, strict=True)]
        why = "; ".join(sorted({rule.left_out for rule in members} - {""}))
        left_out = f"{counts[3]}: {why}" if why else "0"
        about = f"{group} ({spans(rule.number for rule in members)})"
        lines.append(f"| {about} | {counts[0]} | {counts[1]} | {counts[2]} | {left_out} |")
    lines.append(f"| all | {total[0]} | {total[1]} | {total[2]} | {total[3]} |")
    return "\n".join(lines) + "\n"


def spans(numbers: Iterable[int]) -> str:
    """Format numbers as ranges, such as "R001-R026, R035"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number, number])
    return ", ".join(f"R{first:03}" if first == last else f"R{first:03}-R{last:03}" for first, last in found)

"""The report as table, summary and JSON."""

import io

import pytest
from rich.console import Console

from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.report import Row, by_rule, json_report, summary_line, table
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.runner import Outcome, Result
from vllama_pool.router.compat.server import CheckedServer


async def unused(server: CheckedServer) -> None:
    """Never called."""


def outcome(result: Result, *rules: int, detail: str = "") -> Outcome:
    return Outcome(Check(frozenset(rules), "a check", unused), result, detail)


def printed(rows: list[Row], width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table(rows, width))
    return text.getvalue()


def test_a_rule_differs_if_one_of_its_checks_does() -> None:
    found = by_rule(
        [
            outcome(Result.SAME, 1, 2),
            outcome(Result.SKIPPED, 2, 3, detail="no model"),
            outcome(Result.DIFFERS, 1, detail="expected a; got b"),
        ],
        RULES,
    )
    assert [(row.rule.number, row.result, row.detail) for row in found] == [
        (1, Result.DIFFERS, "expected a; got b"),
        (3, Result.SKIPPED, "no model"),
        (2, Result.SAME, ""),
    ]


def test_equal_details_are_shown_once_and_at_most_two_per_rule() -> None:
    details = ["a", "a", "b", "c", "d"]
    (row,) = by_rule([outcome(Result.DIFFERS, 7, detail=detail) for detail in details], RULES)
    assert row.detail == "a; b; and 2 more"


@pytest.mark.parametrize("width", [40, 80, 120, 200, 1000])
def test_the_table_fits_the_terminal_and_shows_everything(width: int) -> None:
    rows = by_rule([outcome(Result.DIFFERS, 44, detail="expected [x]; got [/y]"), outcome(Result.SAME, 1)], RULES)
    text = printed(rows, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "R044" in text
    assert "differs" in text
    assert "expected[x];got[/y]" in text.replace("\n", "").replace(" ", "")
    assert text.index("R044") < text.index("R001")


def test_a_wide_table_has_one_line_per_rule() -> None:
    rows = by_rule([outcome(Result.DIFFERS, 44, detail="expected x; got y"), outcome(Result.SAME, 1)], RULES)
    assert len(printed(rows, 1000).splitlines()) == 3


def test_the_summary_line_counts_results() -> None:
    rows = by_rule(
        [outcome(Result.SAME, 1, 2, 3), outcome(Result.DIFFERS, 4), outcome(Result.SKIPPED, 5, detail="none")], RULES
    )
    assert summary_line(rows, 58) == (
        "5 rules checked: 3 as Ollama, 1 differs, 1 skipped; 58 not checked, --list says why"
    )
    assert summary_line(rows, 0, 2).endswith("1 skipped; 2 more with --writes")
    assert summary_line(rows[-1:], 0) == "1 rule checked: 1 as Ollama, 0 differ"


def test_the_json_report_has_counts_and_every_rule() -> None:
    rows = by_rule([outcome(Result.SAME, 1), outcome(Result.DIFFERS, 44, detail="expected x; got y")], RULES)
    report = json_report("http://h", {"chat": "m"}, rows, 52)
    assert report["counts"] == {"differs": 1, "skipped": 0, "same": 1, "not_checked": 52}
    assert report["models"] == {"chat": "m"}
    first = report["rules"][0]
    assert first | {"title": ""} == {
        "rule": "R044",
        "group": "requests and answers",
        "title": "",
        "result": "differs",
        "detail": "expected x; got y",
    }

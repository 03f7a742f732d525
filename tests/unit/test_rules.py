"""Every rule of the contract has a test that is named after it, or a reason why there is none."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.rule import GROUPS
from vllama_pool.router.compat.rules import RULES, markdown, spans

TESTS = Path(__file__).resolve().parents[1]
NUMBERS = re.compile(r"test_((?:r\d{3}_)+)")


def numbers(name: str) -> set[int]:
    """The rules that a test's name begins with."""
    found = NUMBERS.match(name)
    return {int(number) for number in re.findall(r"\d{3}", found[1])} if found else set()


@cache
def names() -> frozenset[str]:
    """Of every function in every file of tests."""
    return frozenset(
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@cache
def named() -> frozenset[int]:
    return frozenset(number for name in names() for number in numbers(name))


def test_names_are_read_as_they_are_meant() -> None:
    assert numbers("test_r044_streams_are_ndjson") == {44}
    assert numbers("test_r095_r158_thinking") == {95, 158}
    assert numbers("test_a_model_r044_") == set()
    assert 44 in named()


def test_the_rules_are_all_there_in_order() -> None:
    assert [rule.number for rule in RULES] == list(range(1, 202))
    assert {rule.group for rule in RULES} == set(GROUPS)


def test_titles_fit_on_a_line_and_are_told_apart() -> None:
    titles = Counter(rule.title for rule in RULES)
    assert [title for title, count in titles.items() if count > 1] == []
    assert [rule.name for rule in RULES if not 0 < len(rule.title) <= 80] == []


def test_each_rule_is_checked_from_outside_or_says_why_not() -> None:
    checked = {number for check in CHECKS for number in check.rules}
    assert {rule.number for rule in RULES if rule.outside} - checked == set()
    assert {rule.number for rule in RULES if not rule.outside} & checked == set()
    assert [rule.name for rule in RULES if rule.inside and rule.left_out] == []


def test_each_rule_has_a_test_or_says_why_not() -> None:
    wanted = {rule.number for rule in RULES if not rule.left_out}
    assert spans(wanted - named()) == "", "add a test that is named after the rule"


def test_each_trap_has_a_test() -> None:
    """Fifteen places in the contract where servers that are not Ollama go wrong, whatever rules they are made of."""
    found = {int(number) for name in names() for number in re.findall(r"_trap_(\d+)_", name)}
    assert found == set(range(1, 16))


def test_no_test_is_named_after_a_rule_that_there_is_not() -> None:
    assert spans(named() - {rule.number for rule in RULES}) == ""


def test_the_table_for_people_counts_every_rule() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown().splitlines()[2:]]
    assert [row[0].split(" (")[0] for row in rows] == [*GROUPS, "all"]
    for column in (1, 2, 3):
        assert sum(int(row[column]) for row in rows[:-1]) == int(rows[-1][column])
    assert rows[-1][1] == "201"
    routes = next(row for row in rows if row[0].startswith("routes"))
    assert "R001-R026, R035-R038" in routes[0]
    assert all(int(row[1]) == sum(int(cell.split(":")[0]) for cell in row[2:]) for row in rows)

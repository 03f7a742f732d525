"""Every rule of the contract has a test that is named after it, or a reason why there is none."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

from router.compat.rule import GROUPS
from router.compat.rules import RULES, markdown, spans

TESTS = Path(__file__).resolve().parents[1]
NUMBERS = re.compile(r"test_((?:r\d{3}_)+)")

WITHOUT_TESTS = frozenset(
    int(number)
    for number in """
    1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 35 36 37 38 42 43 46 48 49 52 55 58
    60 62 63 66 68 71 85 91 98 99 100 101 102 103 104 105 106 107 108 113 130 132 133 134 135 136 139 140 141
    160 162 163 164 165 166 169 170 171 172 173 177 178 179 180 181 182 183 184 185 186 187 188 189 190 191
    192 193 194 195 196 197 198 199 201
    """.split()
)
"""Rules that wait for their tests."""


def numbers(name: str) -> set[int]:
    """The rules that a test's name begins with."""
    found = NUMBERS.match(name)
    return {int(number) for number in re.findall(r"\d{3}", found[1])} if found else set()


@cache
def named() -> frozenset[int]:
    found: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= numbers(node.name)
    return frozenset(found)


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


def test_each_rule_has_a_test_or_says_why_not() -> None:
    wanted = {rule.number for rule in RULES if not rule.left_out}
    assert spans(wanted - named() - WITHOUT_TESTS) == "", "add a test that is named after the rule"
    assert spans(WITHOUT_TESTS & named()) == "", "they have tests now: take them off WITHOUT_TESTS"
    assert spans(WITHOUT_TESTS - wanted) == ""


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

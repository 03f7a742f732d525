"""The rules of Ollama's API, and the tests that carry their marks."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.rules.docs_table import markdown, spans
from vllama_pool.router.compat.rules.rule import GROUPS

TESTS = Path(__file__).resolve().parents[1]
TRAPS = 15
"""Places where servers other than Ollama tend to differ."""


def marks(source: str) -> Iterator[tuple[str, int]]:
    """Yield (name, number) for each `pytest.mark.<name>(<number>, …)` on a function."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in function.decorator_list:
                match decorator:
                    case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr=name), args=args):
                        for arg in args:
                            if isinstance(arg, ast.Constant) and type(arg.value) is int:
                                yield name, arg.value


@cache
def marked(mark: str) -> frozenset[int]:
    """Return the numbers in this mark of all tests."""
    sources = (path.read_text() for path in TESTS.rglob("test_*.py"))
    return frozenset(number for source in sources for name, number in marks(source) if name == mark)


def test_marks_are_read_from_the_source() -> None:
    source = "class A:\n    @pytest.mark.rule(44, 45)\n    @pytest.mark.trap(3)\n    async def test_x(): ..."
    assert list(marks(source)) == [("rule", 44), ("rule", 45), ("trap", 3)]
    assert list(marks("@pytest.mark.vllm\n@rule(4)\ndef test_r044_x(): ...")) == []


def test_the_rules_are_numbered_without_a_gap() -> None:
    assert [rule.number for rule in RULES] == list(range(1, 225))
    assert {rule.group for rule in RULES} == set(GROUPS)


def test_rule_titles_are_unique_and_fit_on_a_line() -> None:
    titles = Counter(rule.title for rule in RULES)
    assert [title for title, count in titles.items() if count > 1] == []
    assert [rule.name for rule in RULES if not 0 < len(rule.title) <= 80] == []


def test_every_rule_is_checked_from_outside_or_gives_the_reason() -> None:
    checked = {number for check in CHECKS for number in check.rules}
    assert {rule.number for rule in RULES if rule.has_checks} - checked == set()
    assert {rule.number for rule in RULES if not rule.has_checks} & checked == set()
    assert [rule.name for rule in RULES if rule.unobservable and rule.not_implemented] == []


def test_check_names_are_unique() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_every_rule_without_a_check_has_a_test() -> None:
    unchecked = {rule.number for rule in RULES if rule.unobservable}
    assert spans(unchecked - marked("rule")) == "", "mark a test of the rule with @pytest.mark.rule(number)"


def test_each_trap_has_a_test() -> None:
    assert marked("trap") == set(range(1, TRAPS + 1))


def test_no_test_is_marked_with_an_unknown_rule() -> None:
    assert spans(marked("rule") - {rule.number for rule in RULES}) == ""


def test_the_table_of_rules_counts_every_rule() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown().splitlines()[2:]]
    assert [row[0].split(" (")[0] for row in rows] == [*GROUPS, "all"]
    for column in (1, 2, 3):
        assert sum(int(row[column]) for row in rows[:-1]) == int(rows[-1][column])
    assert rows[-1][1] == "224"
    routes = next(row for row in rows if row[0].startswith("routes"))
    assert "R001-R026, R035-R038" in routes[0]
    assert all(int(row[1]) == sum(int(cell.split(":")[0]) for cell in row[2:]) for row in rows)

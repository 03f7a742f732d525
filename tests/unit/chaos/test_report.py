from tests.chaos.fleet import USUAL
from tests.chaos.report import cells, dump, load, markdown, summary, table
from tests.chaos.row import Finding, Row, Scene


async def nothing(scene: Scene) -> None: ...


def row(name: str, *allowed: str, may_lose: bool = False) -> Row:
    return Row(name, f"the fault of {name}", "Nothing is lost.", nothing, USUAL, USUAL, frozenset(allowed), may_lose)


PASSED = Finding(row("F1", "503", "line"), requests=20, errors="2 x 503", recovered=1.25)
FAILED = Finding(row("F2"), requests=10, lost=1, problems=("1 of 10 requests are lost",))
BROKEN = Finding(row("F19", may_lose=True), requests=5, lost=3)
SKIPPED = Finding(row("F30"), skipped="no compiler")


def test_a_row_of_the_table_shows_what_clients_saw_and_what_they_may_see() -> None:
    assert cells(PASSED) == ("F1", "the fault of F1", "20", "0", "2 x 503", "503, line", "1.2 s", "pass")
    assert cells(FAILED) == ("F2", "the fault of F2", "10", "1", "0", "none", "-", "FAIL")


def test_a_loss_that_the_fault_allows_is_marked_and_not_counted_as_lost() -> None:
    assert "3 (allowed)" in cells(BROKEN)
    assert summary([PASSED, BROKEN]) == "2 of 2 rows passed, 0 skipped; 25 requests, 0 lost; slowest recovery 1.2 s"


def test_a_skipped_row_says_why_and_is_not_a_pass() -> None:
    assert cells(SKIPPED)[-1] == "skipped: no compiler"
    assert summary([PASSED, SKIPPED]).startswith("1 of 1 rows passed, 1 skipped; ")


def test_the_columns_of_the_text_are_aligned() -> None:
    lines = table([PASSED, FAILED]).splitlines()
    assert {line.index(word) for line, word in zip(lines, ("result", "pass", "FAIL"), strict=True)} == {
        lines[0].index("result")
    }


def test_the_markdown_has_a_line_for_each_row_and_says_what_it_proves() -> None:
    text = markdown([PASSED, FAILED], full=True)
    assert text.startswith("The full matrix: 1 of 2 rows passed")
    assert "| F2 | the fault of F2 | Nothing is lost. | 10 | 1 | 0 | none | - | FAIL |" in text


def test_findings_of_several_runs_make_one_table() -> None:
    again = Finding(FAILED.row, requests=12, notes=("slow",))
    lines = "".join(map(dump, [PASSED, FAILED, again]))
    assert load(lines, [PASSED.row, FAILED.row]) == [PASSED, again]

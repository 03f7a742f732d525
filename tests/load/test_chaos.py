"""A part of the small fault matrix. `make chaos` runs all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.__main__ import run
from tests.chaos.matrix import chosen
from tests.chaos.report import details, summary, table

pytestmark = [pytest.mark.load, pytest.mark.timeout(400)]

ROWS = ("F1", "F3", "F4", "F13", "F33", "F7")
"""Workers, engines and registries that fail, in a minute. A dead engine is last: it takes the longest to mend."""
PATIENCE = 3.0
"""For a machine that is shared. Nothing that is lost is forgiven."""


async def test_no_fault_of_the_matrix_loses_a_request(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rows = sorted(chosen(ROWS), key=lambda row: ROWS.index(row.name))
    findings = await run(rows, tmp_path, full=False, patience=PATIENCE)
    record_property("figure", f"{table(findings)}\n{summary(findings)}")
    failed = [finding for finding in findings if finding.problems]
    assert not failed, details(failed)

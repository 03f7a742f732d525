"""The request path does not become more expensive. Instructions are counted, so other programs do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.check import count, read_baseline, skipped
from tests.bench.regression import verdict


@pytest.mark.load
@pytest.mark.long
@pytest.mark.timeout(600)
def test_requests_and_tokens_need_no_more_instructions_than_the_baseline(tmp_path: Path) -> None:
    reason = skipped(read_baseline())
    if reason:
        pytest.skip(reason)
    lines, passed = verdict(read_baseline(), count(tmp_path))
    assert passed, "\n" + "\n".join(lines)

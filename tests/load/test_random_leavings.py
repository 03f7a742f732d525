"""Clients leave at random moments, and nothing of them stays in the router."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.leaks import run

pytestmark = [pytest.mark.load, pytest.mark.timeout(200)]

CLIENTS = 1500
"""`make chaos ARGS="--leavings 10000"` lets more leave."""


async def test_clients_that_leave_at_random_moments_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    found = await run(tmp_path, CLIENTS)
    record_property("figure", found.text())
    assert found.problems() == []
    loud = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    # A machine that others use too may keep the registry's process from answering.
    assert [record.getMessage() for record in loud if not record.name.endswith(".registry_loop")] == []

"""Models that start from zero workers, beside a queue that lets nobody wait."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tables import routing_table
from vllama_pool.config.routing.queue_checks import unable_to_wait

FROM_ZERO = {"scale": {"from_zero": True}}


@pytest.mark.parametrize(
    ("entry", "max_queue", "warned"),
    [
        (FROM_ZERO, 0, True),
        ({**FROM_ZERO, "limits": {"wait": 5.0}}, 0, True),
        (FROM_ZERO, 1, False),
        ({**FROM_ZERO, "limits": {"queue": 8}}, 0, False),
        ({**FROM_ZERO, "limits": {"concurrency": 2}}, 0, False),
        ({"scale": {"from_zero": False}}, 0, False),
        ({}, 0, False),
    ],
)
def test_a_model_that_starts_from_zero_needs_a_queue(entry: dict[str, Any], max_queue: int, warned: bool) -> None:
    found = [problem.key for problem in unable_to_wait(routing_table(models={"m": entry}), max_queue)]
    assert found == (["models.m.scale.from_zero"] if warned else [])

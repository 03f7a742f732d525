"""The steps of each part of the set-up."""

from __future__ import annotations

import pytest

from deploy.local.setup import LOCKS, MINILM, PARTS, steps_for
from deploy.local.update_locks import compile_arguments


def steps(*parts: str) -> list[str]:
    return [make().title for make in steps_for(list(parts), "cpu")]


def test_a_model_is_set_up_after_uv_and_vllm() -> None:
    assert [title.split(" (")[0] for title in steps("minilm")] == [
        "uv",
        "vLLM for the CPU",
        "the model all-MiniLM-L6-v2",
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_set_up_adds_its_steps_once(part: str) -> None:
    assert len(steps(part)) > 1
    assert steps(part, part) == steps(part)


def test_minilm_is_locked_with_hashes_and_rebuilt_when_its_lock_changes() -> None:
    lock = LOCKS / "minilm.txt"
    assert lock.name in compile_arguments("")
    assert "--hash=sha256:" in lock.read_text()
    step = steps_for(["minilm"], "cpu")[-1]()
    assert step.inputs == (lock,)
    assert step.stamp.parent == MINILM

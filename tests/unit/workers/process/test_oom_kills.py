from pathlib import Path

import pytest

from vllama_pool.workers.process.oom_kills import oom_kills


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/a/b\n", "a/b/memory.events"),
        ("0::/unseen\n", "memory.events"),
        ("12:cpu:/x\n5:memory:/a\n", "memory/a/memory.oom_control"),
    ],
)
def test_the_count_is_that_of_the_own_control_group(tmp_path: Path, group: str, file: str) -> None:
    write(tmp_path / "mount" / file, "low 0\noom 4\noom_kill 3\n")

    assert oom_kills(write(tmp_path / "cgroup", group), tmp_path / "mount") == 3


def test_without_a_counter_the_count_is_0(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "absent", tmp_path) == 0
    assert oom_kills(write(tmp_path / "cgroup", "0::/\n"), tmp_path) == 0

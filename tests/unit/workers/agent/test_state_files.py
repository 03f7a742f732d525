from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllama_pool.workers.agent.command_line import CannotStart
from vllama_pool.workers.agent.state_files import keep_generation, lock_id, lock_port, log_file, next_generation


def test_an_id_is_locked_until_its_release(tmp_path: Path) -> None:
    lock = lock_id(tmp_path, "w:1")
    with pytest.raises(CannotStart, match="another --name"):
        lock_id(tmp_path, "w:1")
    lock_id(tmp_path, "other").release()
    lock.release()
    lock_id(tmp_path, "w:1").release()


def test_a_lock_shows_that_its_last_holder_was_killed(tmp_path: Path) -> None:
    killed = "import os; from pathlib import Path; from vllama_pool.workers.agent.state_files import lock_id\n"
    killed += f"lock = lock_id(Path({str(tmp_path)!r}), 'w'); os._exit(9)"
    subprocess.run([sys.executable, "-c", killed], check=False)
    lock = lock_id(tmp_path, "w")
    assert lock.holder_was_killed
    lock.release()
    again = lock_id(tmp_path, "w")
    assert not again.holder_was_killed
    again.release()


def test_a_busy_port_is_awaited_up_to_the_timeout(tmp_path: Path) -> None:
    answers = iter([False, False, True, True])
    port, lock = lock_port(tmp_path, "h", 8100, exact=True, timeout=5, free=lambda host, port: next(answers))
    assert port == 8100
    lock.release()


def test_generations_grow_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    assert next_generation(tmp_path, "w", lambda: 1000.0) == 1_000_000
    assert next_generation(tmp_path, "w", lambda: 1000.0) == 1_000_001
    assert next_generation(tmp_path, "w", lambda: 5.0) == 1_000_002
    assert next_generation(tmp_path, "w", lambda: 2000.0) == 2_000_000
    assert next_generation(tmp_path, "other", lambda: 5.0) == 5000


def test_later_starts_exceed_a_generation_that_was_kept(tmp_path: Path) -> None:
    next_generation(tmp_path, "w", lambda: 5.0)
    keep_generation(tmp_path, "w", 1_000_000)
    assert next_generation(tmp_path, "w", lambda: 6.0) == 1_000_001


def test_a_damaged_generation_file_is_ignored(tmp_path: Path) -> None:
    next_generation(tmp_path, "w")
    (tmp_path / "workers" / "w.generation").write_text("rubbish")
    assert next_generation(tmp_path, "w", lambda: 3.0) == 3000


def test_a_locked_port_is_not_given_to_a_second_agent(tmp_path: Path) -> None:
    def free(host: str, port: int) -> bool:
        return port != 8101

    first, lock = lock_port(tmp_path, "127.0.0.1", 8100, exact=False, free=free)
    second, other = lock_port(tmp_path, "127.0.0.1", 8100, exact=False, free=free)
    assert (first, second) == (8100, 8102)
    with pytest.raises(CannotStart, match="port 8100 on"):
        lock_port(tmp_path, "127.0.0.1", 8100, exact=True, free=free)
    lock.release()
    other.release()


def test_no_free_port_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no port is free"):
        lock_port(tmp_path, "h", 65530, exact=False, free=lambda host, port: False)


def test_an_unwritable_state_directory_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (lambda: next_generation(tmp_path / "file", "w"), lambda: lock_id(tmp_path / "file", "w")):
        with pytest.raises(CannotStart, match="VLLAMA_STATE_DIR"):
            attempt()


def test_file_names_contain_no_special_characters_of_the_id(tmp_path: Path) -> None:
    assert re.fullmatch(r"[\w.]+\.log", log_file(tmp_path, "a/../b c:1").name)

"""File locks: one holder at a time, released by the end of the process."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vllama_pool.workers.process.file_lock import FileLock, lock_file


def locked(path: Path, timeout: float = 0.0) -> FileLock:
    lock = lock_file(path, timeout)
    assert lock is not None
    return lock


def test_a_held_lock_is_refused_until_it_is_released(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert lock_file(tmp_path / "lock") is None
        locked(tmp_path / "other").release()
    again = locked(tmp_path / "lock")
    again.release()
    again.release()
    locked(tmp_path / "lock").release()


def test_a_lock_file_is_private_to_its_user(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_the_lock_of_a_killed_process_is_free_and_says_so(tmp_path: Path) -> None:
    killed = "import os, sys; from pathlib import Path; from vllama_pool.workers.process.file_lock import lock_file\n"
    killed += "lock = lock_file(Path(sys.argv[1])); os._exit(9 if lock else 1)"
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path / "lock")], check=False).returncode == 9
    with locked(tmp_path / "lock") as lock:
        assert lock.holder_was_killed
    with locked(tmp_path / "lock") as lock:
        assert not lock.holder_was_killed


def test_locking_waits_for_a_holder_up_to_the_timeout(tmp_path: Path) -> None:
    holder = locked(tmp_path / "lock")
    began = time.monotonic()
    assert lock_file(tmp_path / "lock", timeout=0.05) is None
    assert time.monotonic() - began >= 0.05
    timer = threading.Timer(0.05, holder.release)
    timer.start()
    locked(tmp_path / "lock", timeout=10).release()
    timer.join()


def test_a_symlink_or_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path / "link", tmp_path / "missing" / "lock"):
        with pytest.raises(OSError):  # noqa: PT011
            lock_file(path)
    assert not (tmp_path / "target").exists()

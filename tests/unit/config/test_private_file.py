"""Files that only this user may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_pool.config.private_file import read_private, replace_private


def test_a_file_that_was_written_is_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        replace_private(path, tmp_path / "file.new", data)
        assert read_private(path, 3) == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    path.chmod(0o666)
    with pytest.raises(ValueError, match="other users can write to it"):
        read_private(path, 100)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_private(path, tmp_path / "file.new", b"four")
    with pytest.raises(ValueError, match="it has 4 bytes, more than 3"):
        read_private(path, 3)


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"one")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        read_private(tmp_path / "file", 100)

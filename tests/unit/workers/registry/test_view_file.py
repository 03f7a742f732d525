"""The saved view is replaced whole, and neither a damaged file nor a full disk ends a router."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from vllama_pool.workers.registry.record import WorkerState
from vllama_pool.workers.registry.view_file import MAX_BYTES, SavedWorker, ViewFile

WORKERS = {"a": SavedWorker(b'{"record":{}}\xff', WorkerState.SLEEPING)}


@pytest.fixture
def file(tmp_path: Path) -> ViewFile:
    return ViewFile(tmp_path, "team", clock=lambda: 7.0)


def test_a_view_is_read_as_it_was_saved_and_only_its_user_can_read_it(file: ViewFile) -> None:
    assert file.load() is None
    assert file.save(WORKERS, {"a": b"1\nx"}, "run")
    view = file.load()
    assert view is not None
    assert (view.workers, view.wants, view.saved, view.run) == (WORKERS, {"a": b"1\nx"}, 7.0, "run")
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.path.parent) == [file.path.name]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"workers": 1}', b'{"workers": {"a b": {"envelope": ""}}}', b"[" * 100_000]
)
def test_a_damaged_file_is_ignored_with_a_line_and_replaced_by_the_next_view(
    content: bytes, file: ViewFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.path.write_bytes(content)
    file.path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert file.load() is None
    assert "are ignored" in caplog.text
    assert file.save(WORKERS, {})
    assert file.load() is not None


def test_a_file_that_others_can_write_and_a_link_are_ignored(file: ViewFile, tmp_path: Path) -> None:
    file.save(WORKERS, {})
    file.path.chmod(0o622)
    assert file.load() is None
    file.path.chmod(0o600)
    file.path.rename(tmp_path / "other")
    file.path.symlink_to(tmp_path / "other")
    assert file.load() is None


def test_a_file_that_is_too_large_is_not_read(file: ViewFile) -> None:
    with file.path.open("wb") as large:
        large.truncate(MAX_BYTES + 1)
    file.path.chmod(0o600)
    assert file.load() is None


def test_a_disk_that_cannot_be_written_is_said_once_and_the_old_view_stays(
    file: ViewFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert file.save(WORKERS, {})
    full = ViewFile(tmp_path / "absent", "team")
    with caplog.at_level(logging.WARNING):
        assert not full.save(WORKERS, {})
        assert not full.save(WORKERS, {})
    assert len(caplog.records) == 1
    assert "will not know its workers" in caplog.text
    assert file.load() is not None

"""The save file: no model is lost, and a damaged file stops no router."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vllama_pool.router.virtual_models import savefile
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.workers.process.file_lock import lock_file
from vllama_pool.workers.registry.virtual_model import VirtualModel


def model(name: str, revision: int = 1, *, deleted: bool = False) -> VirtualModel:
    return VirtualModel(name=name, revision=revision, base="" if deleted else "m:latest", deleted=deleted)


@pytest.fixture
def file(tmp_path: Path) -> SaveFile:
    return SaveFile(tmp_path, "team.a")


def loaded(file: SaveFile) -> dict[str, int]:
    return {one.name: one.revision for one in file.load()}


def test_saved_models_are_loaded_and_the_file_is_private(file: SaveFile, tmp_path: Path) -> None:
    assert file.load() == []
    assert file.save([model("v:latest", 3), model("gone:latest", 2, deleted=True)])
    assert file.load() == [model("v:latest", 3), model("gone:latest", 2, deleted=True)]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SaveFile(tmp_path, "other").load() == []


def test_saving_keeps_models_saved_by_other_processes(file: SaveFile, tmp_path: Path) -> None:
    file.save([model("a:latest", 5), model("b:latest", 1)])
    SaveFile(tmp_path, "team.a").save([model("a:latest", 4), model("b:latest", 2), model("c:latest")])
    assert loaded(file) == {"a:latest": 5, "b:latest": 2, "c:latest": 1}


def test_concurrent_saves_lose_no_model(tmp_path: Path) -> None:
    file = SaveFile(tmp_path, "f", lock_timeout=20)
    threads = [threading.Thread(target=file.save, args=([model(f"v{number}:latest")],)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(loaded(file)) == 12


def test_unchanged_models_do_not_rewrite_the_file(file: SaveFile) -> None:
    file.save([model("v:latest")])
    before = file.path.stat().st_ino
    file.save([model("v:latest")])
    assert file.path.stat().st_ino == before


@pytest.mark.parametrize("content", [b"", b"{", b'{"models":[{"na', b"\xff\xfe", b"[]", b'{"models":5}', b"[" * 5000])
def test_a_damaged_file_is_logged_ignored_and_moved_aside(
    file: SaveFile, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.path.write_bytes(content)
    file.path.chmod(0o600)
    assert file.load() == []
    assert str(file.path) in caplog.text
    assert file.save([model("v:latest")])
    assert loaded(file) == {"v:latest": 1}
    assert file.path.with_suffix(".damaged").read_bytes() == content


def test_a_damaged_model_does_not_affect_the_others_in_the_file(
    file: SaveFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.path.write_text(
        '{"models":[{"name":"v:latest","revision":1,"base":"m"},{"name":7},{"name":"w","revision":1}]}'
    )
    file.path.chmod(0o600)
    assert loaded(file) == {"v:latest": 1}
    assert "is ignored" in caplog.text


def test_a_file_that_other_users_can_write_is_ignored(file: SaveFile, caplog: pytest.LogCaptureFixture) -> None:
    file.save([model("v:latest")])
    file.path.chmod(0o666)
    assert file.load() == []
    assert "other users can write" in caplog.text


def test_symlinks_and_pipes_are_not_opened(file: SaveFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text('{"models":[{"name":"v:latest","revision":1,"base":"m"}]}')
    elsewhere.chmod(0o600)
    file.path.symlink_to(elsewhere)
    assert file.load() == []
    file.path.unlink()
    os.mkfifo(file.path, 0o600)
    assert file.load() == []
    assert caplog.text.count("are ignored") == 2


def test_an_unwritable_folder_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not SaveFile(tmp_path / "missing", "f").save([model("v:latest")])
    assert "will be lost" in caplog.text


def test_a_lock_that_is_never_released_times_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = SaveFile(tmp_path, "f", lock_timeout=0.05)
    file.save([model("v:latest")])
    lock = lock_file(file.path.with_suffix(".lock"))
    assert lock is not None
    with lock:
        assert not file.save([model("w:latest")])
    assert "holds its lock" in caplog.text
    assert file.save([model("w:latest")])
    assert set(loaded(file)) == {"v:latest", "w:latest"}
    assert savefile.LOCK_TIMEOUT <= 2

"""The embedded Valkey's socket path, private directory and owner lock, without a Valkey."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.embedded import MAX_SOCKET_PATH, EmbeddedFailed, claim, socket_path

TEMPORARY = Path("/t")
DEEP = Path("/" + "d" * 100)


def test_the_socket_of_a_short_state_directory_is_inside_it() -> None:
    assert socket_path(Path("/s"), TEMPORARY) == Path("/s/registry/valkey.sock")


@pytest.mark.parametrize("surplus", [0, 1])
def test_a_socket_path_may_have_exactly_the_maximum_length(surplus: int) -> None:
    state_dir = Path("/" + "s" * (MAX_SOCKET_PATH - len("//registry/valkey.sock") + surplus))
    assert socket_path(state_dir, TEMPORARY).is_relative_to(TEMPORARY) is bool(surplus)


def test_a_deep_state_directory_gets_a_short_socket_path_of_its_own() -> None:
    path = socket_path(DEEP, TEMPORARY)
    assert len(os.fsencode(path)) <= MAX_SOCKET_PATH
    assert path.parent.parent == TEMPORARY
    assert str(os.geteuid()) in path.parent.name
    assert socket_path(DEEP, TEMPORARY) == path != socket_path(DEEP / "x", TEMPORARY)


def test_socket_path_lengths_are_counted_in_bytes() -> None:
    assert socket_path(Path("/" + "ü" * 45), TEMPORARY).is_relative_to(TEMPORARY)


def test_relative_state_directories_give_absolute_socket_paths() -> None:
    assert socket_path(Path("x"), TEMPORARY).is_absolute()


def test_deep_state_and_temporary_directories_are_an_error() -> None:
    with pytest.raises(EmbeddedFailed, match="choose a shorter state directory"):
        socket_path(DEEP, DEEP)


def test_a_registry_directory_open_to_others_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "registry"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    embedded.address(tmp_path)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_symlink_as_registry_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "registry").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedFailed, match="another state directory"):
        embedded.address(tmp_path)
    with pytest.raises(EmbeddedFailed, match="another state directory"):
        claim(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_registry_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    os.chown(tmp_path / "registry", 12345, 12345)
    with pytest.raises(EmbeddedFailed, match="belongs to another user"):
        embedded.address(tmp_path)


def test_a_file_as_state_directory_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(EmbeddedFailed, match=r"cannot use .*choose another state directory"):
        claim(tmp_path / "state")


def test_an_owner_lock_that_cannot_be_opened_is_a_one_line_error(tmp_path: Path) -> None:
    """As on a file system that has become read-only."""
    (tmp_path / "registry" / "owner.lock").mkdir(parents=True)
    with pytest.raises(EmbeddedFailed, match=r"cannot use .*VLLAMA_STATE_DIR"):
        claim(tmp_path)

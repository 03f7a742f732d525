"""The watch of a routing file's files, on real files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.until import until
from vllama_pool.config.routing.watch import DISTRUST, QUIET, FileWatch, Watched

FIRST, SECOND = "models: {a: {serve: x}}\n", "models: {a: {serve: y}}\n"


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def settled(self, watch: FileWatch) -> bool:
        """Poll, let the files rest, and poll again. Return whether they differ from what was read."""
        noticed = watch.poll()
        assert not (noticed and watch.is_at_rest)
        self.now += QUIET
        differ = watch.poll()
        assert watch.is_at_rest
        assert differ or not noticed
        return differ


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routing.yaml"
    path.write_text(FIRST)
    return path


def watching(clock: Time, *files: Path, patterns: tuple[str, ...] = ()) -> FileWatch:
    """Return a watch of files that have not changed for long."""
    watch = FileWatch(Watched(files, patterns), clock=clock)
    clock.now += DISTRUST
    assert not watch.poll()
    return watch


def write(path: Path) -> None:
    path.write_text(SECOND)


def rename_over(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_text(SECOND)
    other.replace(path)


def save_as_vim(path: Path) -> None:
    path.rename(path.with_suffix(".yaml~"))
    path.write_text(SECOND)


def save_as_emacs(path: Path) -> None:
    """Emacs renames the file to a backup, and copies attributes to the new one."""
    backup = path.with_suffix(".yaml~")
    path.rename(backup)
    path.write_text(SECOND)
    shutil.copystat(backup, path)


def copy_with_times(path: Path) -> None:
    """Write in place, with the size and the time of the file before, as rsync --inplace --times may."""
    before = path.stat()
    path.write_text(SECOND)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("a") as out:
        out.write("# more\n")


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = (
    *(write, rename_over, save_as_vim, save_as_emacs, copy_with_times, append, truncate, remove, remove_folder),
    *(replace_by_folder, replace_by_pipe),
)


@pytest.mark.parametrize("change", CHANGES)
def test_each_way_to_change_a_file_is_noticed_once(clock: Time, file: Path, change: Callable[[Path], None]) -> None:
    watch = watching(clock, file)
    change(file)
    assert watch.poll(), "is to be read at once"
    assert clock.settled(watch)
    watch.begin()
    assert not watch.poll()
    clock.now += 60
    assert not watch.poll()


@pytest.mark.parametrize("change", [remove, remove_folder, replace_by_folder, replace_by_pipe])
def test_a_file_that_returns_is_noticed(clock: Time, file: Path, change: Callable[[Path], None]) -> None:
    watch = watching(clock, file)
    change(file)
    assert clock.settled(watch)
    watch.begin()
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    file.write_text(SECOND)
    assert clock.settled(watch)


def test_a_file_that_goes_and_returns_unchanged_is_no_change(clock: Time, file: Path) -> None:
    watch = watching(clock, file)
    file.unlink()
    assert watch.poll()
    file.write_text(FIRST)
    assert not clock.settled(watch)


def test_a_touched_file_is_no_change(clock: Time, file: Path) -> None:
    watch = watching(clock, file)
    file.touch()
    file.chmod(0o600)
    assert not clock.settled(watch)


def test_a_file_that_is_being_written_is_read_after_the_first_change_and_then_when_it_is_at_rest(
    clock: Time, file: Path
) -> None:
    watch, polls = watching(clock, file), []
    with file.open("w") as out:
        for _ in range(20):
            out.write("# one more line\n")
            out.flush()
            clock.now += QUIET / 2
            polls.append(watch.poll())
            assert not watch.is_at_rest
            watch.begin()
    assert polls == [True, *[False] * 19]
    file.write_text(SECOND)
    assert not watch.poll()
    clock.now += QUIET
    assert watch.poll()


def test_a_second_change_that_the_times_do_not_show_is_noticed(clock: Time, file: Path) -> None:
    """On a file system with times of whole seconds, two writes in one second look alike if their sizes do."""
    watch = watching(clock, file)

    def write_within_a_second(text: str) -> None:
        file.write_text(text)
        os.utime(file, ns=(10**18, 10**18))

    write_within_a_second(SECOND)
    assert clock.settled(watch)
    watch.begin()
    write_within_a_second(FIRST)
    assert clock.settled(watch)


def test_polls_are_more_frequent_until_a_changed_file_is_read(clock: Time, file: Path) -> None:
    watch = watching(clock, file)
    resting = watch.interval
    file.write_text(SECOND)
    watch.poll()
    assert watch.interval < resting
    watch.begin()
    assert watch.interval == resting


def test_the_swap_of_kubernetes_is_noticed(clock: Time, tmp_path: Path) -> None:
    """A mounted ConfigMap is a link to ..data, which is a link to a folder that each update replaces."""
    for folder, text in (("..2026_1", FIRST), ("..2026_2", SECOND)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "routing.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "routing.yaml").symlink_to("..data/routing.yaml")
    watch = watching(clock, tmp_path / "routing.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2026_2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..2026_1")
    assert clock.settled(watch)


@pytest.mark.parametrize("change", [write, rename_over, truncate, remove])
def test_a_changed_include_is_noticed(clock: Time, file: Path, change: Callable[[Path], None]) -> None:
    include = file.with_name("teams.yaml")
    include.write_text(FIRST)
    watch = watching(clock, file, include)
    change(include)
    assert clock.settled(watch)


def test_files_of_a_pattern_are_noticed_as_they_come_change_and_go(clock: Time, file: Path) -> None:
    folder = file.with_name("conf.d")
    watch = watching(clock, file, patterns=(f"{folder}/*.yaml",))
    one = folder / "one.yaml"

    def add() -> None:
        folder.mkdir()
        one.write_text(FIRST)

    for change in (add, lambda: one.write_text(SECOND), lambda: one.rename(folder / "two.yaml")):
        change()
        assert clock.settled(watch)
        watch.begin()
    (folder / "notes.txt").write_text("not one of them")
    assert not clock.settled(watch)
    shutil.rmtree(folder)
    assert clock.settled(watch)


def test_an_include_that_is_new_and_was_changed_while_it_was_read_is_read_again(clock: Time, file: Path) -> None:
    watch = watching(clock, file)
    fresh, old = file.with_name("fresh.yaml"), file.with_name("old.yaml")
    for path in (fresh, old):
        path.write_text(FIRST)
    watch = FileWatch(Watched((file,)), clock=clock, wall_clock=lambda: fresh.stat().st_mtime)
    watch.follow(Watched((file, fresh)))
    assert clock.settled(watch)
    later = FileWatch(Watched((file,)), clock=clock, wall_clock=lambda: old.stat().st_mtime + 60)
    later.follow(Watched((file, old)))
    assert not clock.settled(later)


def test_an_include_that_is_left_out_is_watched_no_more(clock: Time, file: Path) -> None:
    include = file.with_name("teams.yaml")
    include.write_text(FIRST)
    watch = watching(clock, file, include)
    watch.follow(Watched((file,)))
    include.write_text(SECOND)
    assert not clock.settled(watch)


def test_a_change_is_noticed_in_real_time(file: Path, record_property: Callable[[str, object], None]) -> None:
    watch = FileWatch(Watched((file,)))
    assert not watch.poll()
    file.write_text(SECOND)
    saved = time.monotonic()
    until(lambda: watch.poll() and watch.is_at_rest, 10, "the change is noticed", interval=0.05)
    took = time.monotonic() - saved
    record_property("figure", f"a saved routing file is at rest {took:.2f} s after its change")
    assert took >= QUIET

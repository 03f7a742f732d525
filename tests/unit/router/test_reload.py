"""The reloads of one router process, with real files."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.until import auntil
from vllama_pool.config.routing.queue_checks import unable_to_wait
from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.config.routing.watch import QUIET, FileWatch, Watched
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.reload import EMPTY, Fleet, Reloader, ReloadRequest, orphan_problem

FIRST = "models: {a: {serve: x}}\n"
SECOND = "models: {a: {serve: y}}\n"
BROKEN = "models:\n  a: {serve: x, polcy: least-load}\n"
ALLOWED = SECOND + "reload: {orphans: allow}\n"


class Router:
    """A reloader whose parts only remember."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.applied: list[RoutingTable] = []
        self.orphans: list[str] = []
        self.elsewhere: list[str] = []
        self.request = ReloadRequest()
        watch = FileWatch(Watched((file,)))
        self.reloader = Reloader(load(file), watch, (self._prepare,), self._fleet(), self.request, LastTable())

    @property
    def live(self) -> str | None:
        """The served model of `a` in the table that was applied last."""
        return self.applied[-1].models["a"].targets("a")[0].model if self.applied else None

    @property
    def messages(self) -> list[str]:
        return [problem.message for problem in self.reloader.state.problems]

    def _prepare(self, table: RoutingTable) -> Callable[[], None]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # this is another thread

        def apply() -> None:
            asyncio.get_running_loop()
            self.applied.append(table)

        return apply

    def _fleet(self) -> Fleet:
        async def orphans(table: RoutingTable) -> list[str]:
            return self.orphans

        async def live_revisions() -> list[str]:
            return self.elsewhere

        return Fleet(orphans, live_revisions)

    async def failed(self, times: int = 1) -> None:
        await auntil(lambda: self.reloader.state.failures == times)


@asynccontextmanager
async def running(router: Router) -> AsyncIterator[Router]:
    task = asyncio.create_task(router.reloader.run())
    try:
        yield router
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    file = tmp_path / "routing.yaml"
    file.write_text(FIRST)
    async with running(Router(file)) as router:
        yield router


async def test_a_changed_file_takes_effect(router: Router) -> None:
    before = router.reloader.state
    router.file.write_text(SECOND)
    await auntil(lambda: router.live == "y")
    state = router.reloader.state
    assert state.revision == load(router.file).revision != before.revision
    assert (state.reloads, state.failures, state.problems) == (1, 0, ())
    assert before.loaded < state.loaded <= time.time()


async def written_in_pieces(file: Path, last: str) -> float:
    """Write a table with a pause after each line. Return the longest pause in seconds."""
    loop, pauses = asyncio.get_running_loop(), []
    with file.open("w") as out:
        for piece in ("models:\n", "  a: {serve: half}\n", "  b: {serve: y}\n", f"  {last}: {{serve: y}}\n"):
            out.write(piece)
            out.flush()
            written = loop.time()
            await asyncio.sleep(QUIET / 2)
            pauses.append(loop.time() - written)
    return max(pauses)


async def test_a_file_that_is_written_in_pieces_takes_effect_once_and_whole(router: Router) -> None:
    """It is written again if this process was stopped for so long that a piece was at rest."""
    for last in (f"c{number}" for number in range(50)):
        applied, failures = len(router.applied), router.reloader.state.failures
        pause = await written_in_pieces(router.file, last)
        early = router.applied[applied:]
        await auntil(lambda last=last: router.applied and last in router.applied[-1].models)  # type: ignore[misc]
        if pause < 0.9 * QUIET:
            break
    assert early == []
    assert [list(table.models) for table in router.applied[applied:]] == [["a", "b", last]]
    assert router.reloader.state.failures == failures


async def test_a_refused_file_changes_nothing_but_the_state(router: Router) -> None:
    before = router.reloader.state
    router.file.write_text(BROKEN)
    await router.failed()
    assert router.applied == []
    state = router.reloader.state
    assert (state.revision, state.loaded, state.reloads) == (before.revision, before.loaded, 0)
    (problem,) = state.problems
    assert (problem.file, problem.line, problem.key) == (str(router.file), 2, "models.a.polcy")
    assert "did you mean 'policy'?" in problem.message
    router.file.write_text(SECOND)
    await auntil(lambda: router.live == "y")
    assert router.reloader.state.problems == ()


async def test_the_error_is_logged_once_per_content(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        router.file.write_text(BROKEN + "#" * number)
        await router.failed(number)
    await asyncio.sleep(0.5)  # more polls of the same content
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert f"{router.file}:2:17: models.a.polcy: unknown key" in errors[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: os.truncate(file, 0), EMPTY),
        (lambda file: file.write_text("\n\n"), EMPTY),
        (lambda file: file.unlink(), "No such file or directory; name a readable file"),
        (lambda file: file.rename(file.with_name("other")), "No such file or directory; name a readable file"),
        (lambda file: (file.unlink(), file.mkdir()), "not a file; name a YAML file"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "not UTF-8 text; save the file as UTF-8"),
    ],
    ids=["cut off", "blank", "deleted", "renamed", "a folder", "not a text"],
)
async def test_a_file_that_is_gone_or_cut_off_replaces_nothing(
    router: Router, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(router.file)
    await router.failed()
    assert router.messages == [message]
    assert router.applied == []


@pytest.mark.parametrize("text", ["{}\n", "# nothing yet\n", "---\n", "models:\n"])
async def test_an_empty_table_that_is_meant_takes_effect(router: Router, text: str) -> None:
    router.file.write_text(text)
    await auntil(lambda: router.applied)
    assert router.applied[-1].models == {}


async def test_a_restored_file_ends_the_problem_without_a_reload(router: Router) -> None:
    router.file.write_text(BROKEN)
    await router.failed()
    router.file.write_text(FIRST)
    await auntil(lambda: not router.reloader.state.problems)
    assert router.applied == []


async def test_a_request_reads_a_file_that_did_not_change(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    loaded = router.reloader.state.loaded
    with caplog.at_level(logging.INFO):
        router.request()
        await auntil(lambda: router.reloader.state.loaded > loaded)
    assert router.applied == []
    assert "stays live" in caplog.text


async def test_a_request_repeats_the_error_of_a_broken_file(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    router.file.write_text(BROKEN)
    await router.failed()
    router.request()
    await router.failed(2)
    assert caplog.text.count("unknown key") == 2


async def test_a_process_that_is_not_to_log_logs_at_debug_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(FIRST)
    router = Router(file)
    watch = FileWatch(Watched((file,)))
    router.reloader = Reloader(load(file), watch, (), router._fleet(), router.request, LastTable(), logs=False)
    async with running(router):
        file.write_text(BROKEN)
        await router.failed()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_warning_about_a_new_table_is_logged_when_it_takes_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(FIRST)
    router = Router(file)
    router.reloader = Reloader(
        *(load(file), FileWatch(Watched((file,))), (), router._fleet(), router.request, LastTable()),
        warnings=partial(unable_to_wait, max_queue=0),
    )
    async with running(router):
        file.write_text("models: {a: {scale: {from_zero: true}}}\n")
        await auntil(lambda: router.reloader.state.reloads == 1)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith(f"routing file: {file}:1:22: models.a.scale.from_zero: no request can wait ")


async def test_a_table_that_orphans_models_is_refused_by_name_and_cure(router: Router) -> None:
    router.orphans = ["gone", "lost:7b"]
    router.file.write_text(SECOND)
    await router.failed()
    (message,) = router.messages
    assert "'gone', 'lost:7b'" in message
    assert "reload: {orphans: allow}" in message
    assert router.applied == []
    assert router.reloader.state.refused == load(router.file).revision


async def test_the_new_file_may_allow_orphans(router: Router) -> None:
    router.orphans = ["gone"]
    router.file.write_text(ALLOWED)
    await auntil(lambda: router.live == "y")


async def test_a_refused_table_that_another_process_has_accepted_takes_effect(router: Router) -> None:
    """Processes ask at slightly different times, and must not stay on different tables."""
    router.orphans = ["gone"]
    router.file.write_text(SECOND)
    await router.failed()
    router.elsewhere = [load(router.file).revision]
    await auntil(lambda: router.live == "y")
    assert router.reloader.state.problems == ()


async def test_a_refused_table_is_forgotten_when_the_file_returns(router: Router) -> None:
    router.orphans = ["gone"]
    router.file.write_text(SECOND)
    await router.failed()
    router.elsewhere = [load(router.file).revision]
    router.file.write_text(FIRST)
    router.orphans = []
    await auntil(lambda: not router.reloader.state.problems)
    router.elsewhere = []
    assert router.reloader.state.refused == ""


async def test_a_change_between_the_start_and_the_first_poll_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(FIRST)
    router = Router(file)
    file.write_text(SECOND)
    async with running(router):
        await auntil(lambda: router.live == "y")


@pytest.mark.parametrize("include", ["teams.yaml", "conf.d/*.yaml"])
async def test_an_include_is_watched_also_while_it_is_broken_or_empty(router: Router, include: str) -> None:
    folder = router.file.parent
    (folder / "conf.d").mkdir()
    included = folder / include.replace("*", "more")
    if "*" not in include:
        included.write_text("{}\n")
    router.file.write_text(f"include: ['{include}']\n{SECOND}")
    await auntil(lambda: router.live == "y")
    for number, text in enumerate((BROKEN, ""), 1):
        included.write_text(text)
        await router.failed(number)
        assert [problem.file for problem in router.reloader.state.problems] == [str(included)]
    included.write_text("models: {b: {serve: z}}\n")
    await auntil(lambda: "b" in router.applied[-1].models)
    included.unlink()
    if "*" in include:
        await auntil(lambda: "b" not in router.applied[-1].models)
    else:
        await router.failed(3)


async def test_a_new_include_that_is_broken_takes_effect_when_it_is_corrected(router: Router) -> None:
    included = router.file.with_name("teams.yaml")
    included.write_text(BROKEN)
    router.file.write_text("include: [teams.yaml]\n")
    await router.failed()
    included.write_text(SECOND)
    await auntil(lambda: router.live == "y")


async def test_a_swapped_config_map_takes_effect_with_its_includes_as_one_table(tmp_path: Path) -> None:
    for folder, served in (("..1", "x"), ("..2", "y")):
        (tmp_path / folder).mkdir()
        for name, model in (("routing", "a"), ("teams", "b"), ("conf-1", "c")):
            include = "include: [teams.yaml, 'conf-*.yaml']\n" if name == "routing" else ""
            (tmp_path / folder / f"{name}.yaml").write_text(f"{include}models: {{{model}: {{serve: {served}}}}}\n")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("routing", "teams", "conf-1"):
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    async with running(Router(tmp_path / "routing.yaml")) as router:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await auntil(lambda: router.applied)
        shutil.rmtree(tmp_path / "..1")
        (tmp_path / "conf-1.yaml").unlink()
        await auntil(lambda: len(router.applied) == 2)
    first, second = [{name: entry.serve for name, entry in table.models.items()} for table in router.applied]
    assert first == {"a": "y", "b": "y", "c": "y"}
    assert second == {"a": "y", "b": "y"}


@pytest.mark.parametrize("program", ["sed -i s/x/y/", "perl -pi -e s/x/y/", "vim -es -u NONE -c %s/x/y/ -c wq"])
async def test_what_real_programs_save_takes_effect(router: Router, program: str) -> None:
    words = [*program.split(), str(router.file)]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    process = await asyncio.create_subprocess_exec(*words)
    assert await process.wait() == 0
    await auntil(lambda: router.live == "y")


def test_the_message_about_many_orphans_is_short() -> None:
    problem = orphan_problem(Path("routing.yaml"), [f"model-{number}" for number in range(1000)])
    assert "and 990 more" in problem.message
    assert len(str(problem)) < 500


def test_several_requests_are_one_reload() -> None:
    request = ReloadRequest()
    assert not request.take()
    request()
    request()
    assert request.take()
    assert not request.take()

"""Keeps the routing table of one router process in step with its file.

A thread polls the files, and reads and compiles a table when they change. Once they have been at rest, and so are
completely written, the event loop puts it into effect in one step. A table that is refused changes nothing but the
state, which metrics and `vllama ps` show.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from msgspec.structs import replace

from vllama_pool.config.printable import printable, shortlist
from vllama_pool.config.redaction import redacted
from vllama_pool.config.routing.table import Place, Problem, RoutingError, RoutingTable, load
from vllama_pool.config.routing.watch import CHANGING_INTERVAL, FileWatch, Watched
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.telemetry.routing_file import FileProblem, RoutingFileState

SWITCH_INTERVAL = 0.0005
"""Seconds for which the reading thread may keep the interpreter while the event loop waits for it."""
ADOPT_INTERVAL = 1.0
"""Seconds between two questions whether other processes have accepted a table that this one refused."""
MAX_PROBLEMS = 20
EMPTY = "the file is empty; write {} or a comment if no entries are meant"

_log = logging.getLogger(__name__)

Prepare = Callable[[RoutingTable], Callable[[], None]]
"""Builds what a part of the router makes of a table, in a thread. Returns the step that puts it into effect, which runs
in the event loop and does not fail. Raises RoutingError."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Questions about the traffic and the processes of one `vllama serve`."""

    orphans: Callable[[RoutingTable], Awaitable[Sequence[str]]]
    """Returns the models in use that the table would leave without a worker."""
    live_revisions: Callable[[], Awaitable[Sequence[str]]]
    """Returns those of all processes."""


class ReloadRequest:
    """A reload that a signal asks for. Its signal handler is the object itself."""

    def __init__(self) -> None:
        self._pending = False

    def __call__(self, number: int = 0, frame: FrameType | None = None) -> None:
        self._pending = True

    def take(self) -> bool:
        """Return True once for one or several requests."""
        pending, self._pending = self._pending, False
        return pending


@dataclass(frozen=True, slots=True)
class _Reading:
    """A table that is ready to take effect, or why it is not."""

    table: RoutingTable | None
    watched: Watched
    """Files whose change may change it."""
    steps: tuple[Callable[[], None], ...] = ()
    problems: tuple[FileProblem, ...] = ()

    def apply(self) -> None:
        for step in self.steps:
            step()


class Reloader:
    """Owns the live table of this process, a refused candidate, and the latest problems."""

    def __init__(
        self,
        table: RoutingTable,
        watch: FileWatch,
        parts: Sequence[Prepare],
        fleet: Fleet,
        request: ReloadRequest,
        last: LastTable,
        *,
        warnings: Callable[[RoutingTable], Iterable[Problem]] = lambda table: (),
        logs: bool = True,
    ) -> None:
        """`table` is live. `watch` began before it was read. `last` keeps what is live. `logs`: False if another
        process logs the same. `warnings`: of a table that takes effect nevertheless."""
        self._file = table.files[0]
        self._live = table
        self._watch = watch
        self._parts = tuple(parts)
        self._fleet = fleet
        self._request = request
        self._last = last
        self._kept: RoutingTable | None = None
        self._logs = logs
        self._warnings = warnings
        self._candidate: _Reading | None = None
        self._adopt_at = 0.0
        self._state = RoutingFileState(str(self._file), table.revision, time.time())
        watch.follow(Watched(table.files, table.patterns))

    @property
    def state(self) -> RoutingFileState:
        return self._state

    async def run(self) -> None:
        thread = ThreadPoolExecutor(1, "routing file")
        try:
            while True:
                if self._kept is not self._live:
                    self._kept = self._live
                    await asyncio.get_running_loop().run_in_executor(thread, self._last.keep, self._live)
                await asyncio.sleep(self._watch.interval)
                await self._turn(thread)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)  # an open on a dead NFS server does not return

    async def _turn(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        asked = self._request.take()
        if asked or await loop.run_in_executor(thread, self._watch.poll):
            reading = await loop.run_in_executor(thread, self._read)
            if reading is not None and (asked or await self._stays(thread)):
                await self._judge(reading, asked)
        elif self._candidate is not None and loop.time() >= self._adopt_at:
            self._adopt_at = loop.time() + ADOPT_INTERVAL
            await self._adopt(self._candidate)

    async def _stays(self, thread: ThreadPoolExecutor) -> bool:
        """Wait until the files are at rest. Return False if they change again, and are to be read again."""
        loop = asyncio.get_running_loop()
        while not self._watch.is_at_rest:
            await asyncio.sleep(CHANGING_INTERVAL)
            if not await loop.run_in_executor(thread, self._watch.is_unchanged):
                return False
        return True

    # --- in the thread

    def _read(self) -> _Reading | None:
        """Return None if the files change meanwhile: they are read again when they are at rest."""
        self._watch.begin()
        with _short_turns():
            reading = self._compile()
        self._watch.follow(reading.watched)
        return reading if self._watch.is_unchanged() else None

    def _compile(self) -> _Reading:
        watched = Watched((self._file,))
        try:
            table = load(self._file, previous=self._live)
            watched = Watched(table.files, table.patterns)
            _refuse_empty(table)
            return _Reading(table, watched, tuple(part(table) for part in self._parts))
        except RoutingError as error:
            watched = Watched(error.files, error.patterns) if error.files else watched
            return _Reading(None, watched, problems=tuple(_problems(error)))
        except (ValueError, RecursionError, OSError) as error:
            _log.exception("the routing file cannot be compiled")
            problem = FileProblem(f"cannot be compiled: {error}; report it", str(self._file))
            return _Reading(None, watched, problems=(problem,))

    # --- in the event loop

    async def _judge(self, reading: _Reading, asked: bool) -> None:
        self._candidate = None
        table = reading.table
        if table is None:
            self._refuse(reading.problems)
        elif table.revision == self._live.revision and table.files == self._live.files:
            self._keep(asked)
        elif problem := await self._orphans(table):
            self._candidate = reading
            self._refuse((problem,), table.revision)
        else:
            self._accept(reading, table)

    async def _orphans(self, table: RoutingTable) -> FileProblem | None:
        if table.entries.reload.orphans == "allow":
            return None
        names = await self._fleet.orphans(table)
        if not names or table.revision in await self._fleet.live_revisions():
            return None
        return orphan_problem(self._file, names)

    async def _adopt(self, candidate: _Reading) -> None:
        """Accept a refused table that is live elsewhere: the processes of one `vllama serve` must not differ."""
        table = candidate.table
        if table is not None and table.revision in await self._fleet.live_revisions():
            self._accept(candidate, table)

    def _accept(self, reading: _Reading, table: RoutingTable) -> None:
        reading.apply()
        self._live, self._candidate = table, None
        self._state = replace(
            self._state,
            revision=table.revision,
            loaded=time.time(),
            reloads=self._state.reloads + 1,
            refused="",
            problems=(),
        )
        models, workers = len(table.models), len(table.workers)
        self._say(
            logging.INFO,
            "routing file %s: revision %s is live; models: %d, static workers: %d",
            self._file,
            table.revision,
            models,
            workers,
        )
        for warning in self._warnings(table):
            self._say(logging.WARNING, "routing file: %s", warning)

    def _keep(self, asked: bool) -> None:
        """The file is, again, what is live."""
        if asked or self._state.problems:
            self._say(logging.INFO, "routing file %s: revision %s stays live", self._file, self._live.revision)
        self._state = replace(self._state, loaded=time.time(), refused="", problems=())

    def _refuse(self, problems: tuple[FileProblem, ...], revision: str = "") -> None:
        state = self._state
        self._state = replace(state, failures=state.failures + 1, refused=revision, problems=problems)
        for problem in problems:
            self._say(logging.ERROR, "routing file refused, revision %s stays live: %s", self._live.revision, problem)

    def _say(self, level: int, message: str, *values: object) -> None:
        _log.log(level if self._logs else logging.DEBUG, message, *values)


def orphan_problem(file: Path, names: Sequence[str]) -> FileProblem:
    """Describe a table that would leave these models without a worker."""
    shown = shortlist([f"'{printable(name)[:120]}'" for name in names])
    text = f"no worker would serve {shown}, in use within the last 5 minutes"
    return FileProblem(f"{text}; keep an entry for it, or write `reload: {{orphans: allow}}`", str(file), key="models")


def _refuse_empty(table: RoutingTable) -> None:
    """Refuse files without content, which are cut off rather than meant. Raises RoutingError."""
    empty = [path for path in table.files if not path.read_bytes().strip()]
    if empty:
        problems = [Problem(Place(str(path)), "", EMPTY) for path in empty]
        raise RoutingError(str(table.files[0]), problems, files=table.files, patterns=table.patterns)


def _problems(error: RoutingError) -> Iterator[FileProblem]:
    for problem in error.problems[:MAX_PROBLEMS]:
        message = printable(redacted(problem.message))
        yield FileProblem(message, problem.file, problem.line, problem.column, printable(redacted(problem.key)))


@contextmanager
def _short_turns() -> Iterator[None]:
    """Give the event loop the interpreter soon after it asks for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

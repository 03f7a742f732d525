"""`vllama drain --wait` decides when a worker is idle, and tells how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.balance import Clock, found, pool_of
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.drain import SETTLED_AFTER, Watch, is_idle, wait_idle
from vllama_pool.router.telemetry.aggregate import Processes, WorkersPage
from vllama_pool.router.telemetry.worker_view import WorkerView, view_workers


def page(*, registry_up: bool = True, answered: int = 2, worker_id: str = "a", **figures: Any) -> WorkersPage:
    clock = Clock()
    (view,) = view_workers(pool_of(clock, found(worker_id)), clock())
    fields = {name: getattr(view, name) for name in WorkerView.__struct_fields__}
    return WorkersPage((WorkerView(**{**fields, **figures}),), registry_up, Processes(2, answered))


IDLE = page()


@pytest.mark.parametrize(
    ("seen", "idle"),
    [
        (IDLE, True),
        (page(running=1), False),
        (page(waiting=1), False),
        (page(in_flight=1), False),
        (page(answered=1), False),
        (page(registry_up=False), False),
        (page(state="down", running=3), True),
        (page(state="down", in_flight=1), False),
        (WorkersPage((), True, Processes(2, 2)), True),
    ],
)
def test_a_worker_is_idle_if_all_routers_and_its_own_figures_say_so(seen: WorkersPage, idle: bool) -> None:
    assert is_idle("a", seen) is idle


def test_a_static_workers_figures_need_no_registry() -> None:
    assert is_idle("static/a", page(registry_up=False, worker_id="static/a"))


class Script:
    """Pages in order, the last one again and again; an error stands for a router that does not answer."""

    def __init__(self, *pages: WorkersPage | CommandFailed) -> None:
        self._pages: Iterator[WorkersPage | CommandFailed] = iter(pages)
        self._last: WorkersPage | CommandFailed = pages[-1]
        self.now = 100.0

    def read(self) -> WorkersPage:
        self._last = next(self._pages, self._last)
        if isinstance(self._last, CommandFailed):
            raise self._last
        return self._last

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, timeout: float = 60.0) -> float:
        """Return the seconds that it took."""
        start = self.now
        wait_idle(Watch("a", timeout, lambda: self.now, self.sleep), self.read)
        return self.now - start


def test_each_change_is_printed_once_until_the_worker_has_been_idle_for_a_while(
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = page(running=2, waiting=1, in_flight=3)
    assert Script(busy, busy, page(running=1), IDLE).wait() >= SETTLED_AFTER
    assert capsys.readouterr().out.splitlines() == [
        "waiting: a: 2 running, 1 waiting, 3 from this router",
        "waiting: a: 1 running, 0 waiting, 0 from this router",
        "waiting: a: 0 running, 0 waiting, 0 from this router",
        "a has no requests: drained after 4 s",
    ]


def test_a_request_that_arrives_late_begins_the_wait_anew() -> None:
    assert Script(IDLE, IDLE, IDLE, page(running=1), IDLE).wait() >= 2.0 + SETTLED_AFTER


def test_a_router_that_does_not_answer_for_a_moment_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    Script(CommandFailed("no router answers"), IDLE).wait()
    assert capsys.readouterr().out.startswith("waiting: no router answers\n")


def test_at_the_time_limit_the_error_says_what_is_left() -> None:
    with pytest.raises(CommandFailed) as failed:
        Script(page(running=1)).wait(3.0)
    assert failed.value.exit_code == 1
    assert failed.value.message == (
        "not idle after 3 s: a: 1 running, 0 waiting, 0 from this router; "
        "it stays drained: wait again, or vllama undrain a"
    )

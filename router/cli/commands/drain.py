"""`vllama drain`: give a worker no new requests, and wait until it is idle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import click
import msgspec

from vllama_pool.config.durations import seconds
from vllama_pool.config.printable import printable
from vllama_pool.config.routing.table import STATIC
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.router_client import RouterClient, RouterRefused, url_option
from vllama_pool.router.routing.drain_request import DrainAnswer, DrainRequest, UnknownWorker
from vllama_pool.router.telemetry.aggregate import WorkersPage
from vllama_pool.router.telemetry.worker_view import WorkerView

POLL_INTERVAL = 0.5
"""Seconds."""
SETTLED_AFTER = 2.5
"""Seconds without a request after which a worker is idle. Another router may know of the drain half a second late, and
the worker reports its load once a second."""


class UnknownWorkerGiven(CommandFailed):
    exit_code = 2


class Timeout(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not number > 0:
            self.fail("the time must be above 0; write one such as 10m", param, ctx)
        return number


@click.command("drain", short_help="Give a worker no new requests, and wait until it is idle.")
@click.argument("worker")
@click.option("--wait", is_flag=True, help="Wait until the worker has no requests.")
@click.option(
    "--timeout", type=Timeout(), default="10m", show_default=True, metavar="TIME", help="Limit for --wait, such as 90s."
)
@url_option
def command(worker: str, wait: bool, timeout: float, base_url: str | None) -> None:
    """Give WORKER no new requests; those in progress finish.

    WORKER is an id as `vllama ps` shows it; of a static worker also its name in the routing file. The drain holds in
    all routers of the fleet, also when the worker or a router restarts, until vllama undrain WORKER.

    Exit codes: 0 done, 1 not idle in time or not possible, 2 unknown worker.
    """
    router = RouterClient(base_url)
    answer = ask(router, worker, drain=True)
    name = printable(answer.worker)
    already = "" if answer.changed else "already "
    click.echo(f"{name} is {already}draining: it gets no new requests until vllama undrain {name}")
    if wait:
        wait_idle(Watch(answer.worker, timeout, time.monotonic, time.sleep), lambda: _page(router))


def ask(router: RouterClient, worker: str, *, drain: bool) -> DrainAnswer:
    """Ask the router for a drain or its end. Raises CommandFailed."""
    try:
        answer = router.post("/admin/drain", msgspec.json.encode(DrainRequest(worker, drain)))
    except RouterRefused as refused:
        if refused.status == 404:
            _fail_if_unknown(refused)
        raise
    return router.decode(answer, DrainAnswer)


def _fail_if_unknown(refused: RouterRefused) -> None:
    try:
        unknown = msgspec.json.decode(refused.body, type=UnknownWorker)
    except msgspec.MsgspecError:
        return  # another server's 404
    raise UnknownWorkerGiven(unknown.error) from refused


def _page(router: RouterClient) -> WorkersPage:
    return router.decode(router.get("/admin/workers"), WorkersPage)


@dataclass(frozen=True, slots=True)
class Watch:
    worker: str
    """Its id."""
    timeout: float
    clock: Callable[[], float]
    """Returns monotonic seconds."""
    sleep: Callable[[float], None]


def wait_idle(watch: Watch, read: Callable[[], WorkersPage]) -> None:
    """Wait until the worker has had no request for SETTLED_AFTER, and print its requests when they change.

    A router that does not answer for a moment is asked again. Raises CommandFailed at the time limit.
    """
    started = watch.clock()
    deadline, idle_since, printed = started + watch.timeout, float("inf"), ""
    while True:
        try:
            page, problem = read(), ""
        except CommandFailed as error:
            page, problem = None, error.message
        now = watch.clock()
        text = problem or _progress(watch.worker, page)
        idle_since = min(idle_since, now) if page is not None and is_idle(watch.worker, page) else float("inf")
        if now - idle_since >= SETTLED_AFTER:
            click.echo(f"{printable(watch.worker)} has no requests: drained after {now - started:.0f} s")
            return
        if now >= deadline:
            _fail(watch, text)
        if text != printed:
            printed = text
            click.echo(f"waiting: {printable(text)}")
        watch.sleep(min(POLL_INTERVAL, max(0.0, deadline - now)))


def is_idle(worker_id: str, page: WorkersPage) -> bool:
    """True if all routers and the worker itself count no request.

    A worker that is down or has left has none but those that routers still count. Figures of an unanswering registry or
    router process are not known.
    """
    if page.processes.answered < page.processes.total:
        return False
    worker = _find(worker_id, page)
    if worker is None or worker.state == "down":
        return worker is None or not worker.in_flight
    known = page.registry_up or worker_id.startswith(STATIC)
    return known and not (worker.running or worker.waiting or worker.in_flight)


def _progress(worker_id: str, page: WorkersPage | None) -> str:
    worker = _find(worker_id, page) if page is not None else None
    if worker is None:
        return f"{worker_id} has left the fleet"
    text = f"{worker.id}: {worker.running} running, {worker.waiting} waiting, {worker.in_flight} from this router"
    return f"{text}; it is down" if worker.state == "down" else text


def _find(worker_id: str, page: WorkersPage) -> WorkerView | None:
    return next((worker for worker in page.workers if worker.id == worker_id), None)


def _fail(watch: Watch, text: str) -> NoReturn:
    raise CommandFailed(
        f"not idle after {watch.timeout:g} s: {text}; it stays drained: wait again, or vllama undrain {watch.worker}"
    )

"""The requests and workers that `vllama check --against` compares tables with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.described import described_pool
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.router_client import RouterClient
from vllama_pool.router.routing.assumed import assumed_workers
from vllama_pool.router.routing.replay import Comparison, Destination, Recorded, Replay, compare, recorded_destination
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights, TableRights
from vllama_pool.router.telemetry.aggregate import WorkersPage
from vllama_pool.router.telemetry.worker_view import WorkerView
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord

LAST = "last"
"""The source that is a running router."""


_NO_KEY = Destination("", {}, "its API key is no longer in the file")


LEAVING = ("stopped", "draining", "down")
"""States of workers that are not live."""


@dataclass(frozen=True, slots=True)
class Recording:
    requests: Sequence[Recorded]
    workers: Sequence[WorkerRecord] | None = None
    """Those of the running router. None: a worker is assumed for every target."""


def read_recording(source: str, base_url: str | None) -> Recording:
    """Read a file of JSON lines, or ask the router for its decisions and workers. Raises CommandFailed."""
    if source != LAST:
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise CommandFailed(f"{source}: {error.strerror or 'cannot be read'}; name a readable file") from None
        return Recording(_decode(data, source))
    router = RouterClient(base_url)
    decisions = router.get("/admin/decisions")
    return Recording(_decode(decisions.content, router.base_url), _workers(router))


def read_workers(base_url: str | None) -> list[WorkerRecord]:
    """Ask the router for its live workers. Raises CommandFailed."""
    return _workers(RouterClient(base_url))


def compare_tables(recording: Recording, table: RoutingTable, current: RoutingTable | None) -> Comparison:
    """Compare where the requests went, or would go under `current`, with where they would go under `table`."""
    after = _replay(recording, table).destination
    if current is None:
        return compare(recording.requests, recorded_destination, after)
    removed = (current.entries.keys or {}).keys() - (table.entries.keys or {}).keys()
    before = _replay(recording, current).destination
    return compare(recording.requests, before, lambda each: _NO_KEY if each.key in removed else after(each))


def _replay(recording: Recording, table: RoutingTable) -> Replay:
    routes = ModelRoutes(table, random.Random(0))
    served = {recorded.served for recorded in recording.requests if recorded.served}
    if recording.workers is None:
        names = dict.fromkeys(recorded.requested for recorded in recording.requests)
        workers = assumed_workers(routes.rules, names, sorted(served))
    else:
        live = {name for worker in recording.workers for model in worker.models for name in model.names}
        workers = [*recording.workers, *assumed_workers(routes.rules, (), sorted(served - live))]
    return Replay(routes, described_pool(workers), lambda key: rights_of(table, routes, key))


def rights_of(table: RoutingTable, routes: ModelRoutes, name: str) -> Rights | None:
    return TableRights(table.entries, routes.names_of).of_key(name)


def _workers(router: RouterClient) -> list[WorkerRecord]:
    page = router.decode(router.get("/admin/workers"), WorkersPage)
    return [_record(worker) for worker in page.workers if worker.state not in LEAVING]


def _record(worker: WorkerView) -> WorkerRecord:
    models = tuple(
        ModelInfo(name=model.name, aliases=model.aliases, context_length=model.context_length)
        for model in worker.served
    )
    return WorkerRecord(id=worker.id, generation=1, url=worker.url, models=models, tags=worker.tags)


def _decode(data: bytes, source: str) -> list[Recorded]:
    return [_decode_line(line, number, source) for number, line in _lines(data)]


def _lines(data: bytes) -> Iterable[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip())


def _decode_line(line: bytes, number: int, source: str) -> Recorded:
    try:
        return msgspec.json.decode(line, type=Recorded)
    except msgspec.MsgspecError:
        raise CommandFailed(
            f"{source}:{number}: not a recorded decision; save the answer of GET /admin/decisions"
        ) from None

"""Tables for the terminal: the workers of a fleet, and what a routing file says."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from config.routing import RoutingTable
from router.balance.view import WorkerView


def workers_table(workers: Sequence[WorkerView]) -> Table:
    """`vllama ps`: one row for each worker."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("WORKER", "MODEL", "STATE"):
        table.add_column(title, overflow="fold")
    for title in ("RUN", "WAIT", "KV", "TOK/S"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("ADDRESS", overflow="fold")
    for worker in workers:
        table.add_row(
            worker.id,
            ", ".join(worker.models),
            state(worker),
            f"{worker.running}/{worker.slots}" if worker.slots else str(worker.running),
            str(worker.waiting),
            f"{worker.kv_usage:.0%}",
            f"{worker.tokens_per_second:.0f}",
            worker.url.removeprefix("http://"),
        )
    return table


def state(worker: WorkerView) -> str:
    """A worker's state with what else should be known of it, in a few words."""
    words = [worker.state]
    if worker.engine == "simulated":
        words.append("simulated")
    if worker.breaker != "closed":
        words.append(f"breaker {worker.breaker}")
    if worker.restarts:
        words.append("restarted once" if worker.restarts == 1 else f"restarted {worker.restarts} times")
    if worker.note:
        words.append(worker.note)
    return ", ".join(words)


def routing_table(routing: RoutingTable) -> list[Table]:
    """`vllama check`: the models and the static workers, as they were understood."""
    tables = []
    if routing.models:
        models = Table("MODEL", "SERVED BY", "ALIASES", "OPTIONS", box=box.SIMPLE)
        for route in routing.models:
            weighted = len(route.serve) > 1
            served = [f"{target.model} ({target.weight})" if weighted else target.model for target in route.serve]
            options = ", ".join(f"{name}={value}" for name, value in route.options.items())
            models.add_row(route.name, ", ".join(served), ", ".join(route.aliases), options)
        tables.append(models)
    if routing.workers:
        workers = Table("STATIC WORKER", "URL", "SLOTS", "TAGS", box=box.SIMPLE)
        for worker in routing.workers:
            workers.add_row(worker.name, worker.url, str(worker.slots or "unknown"), ", ".join(worker.tags))
        tables.append(workers)
    return tables

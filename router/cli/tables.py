"""Terminal tables of workers and of routing files."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.compat.columns import GAP, add_row, plain_table
from vllama_pool.router.telemetry.worker_view import WorkerView

TEXT = ("WORKER", "MODEL", "STATE", "ADDRESS")
FIRST_TO_GO = ("ADDRESS", "TOK/S", "KV", "WAIT")
"""Columns to drop on a narrow terminal, in this order."""


def workers_table(workers: Sequence[WorkerView], width: int) -> Table:
    """`vllama ps`: one row per worker."""
    rows = [row(worker) for worker in workers]
    titles = list(row(workers[0])) if workers else []
    for title in FIRST_TO_GO:
        if natural_width(rows, titles) > width and title in titles:
            titles.remove(title)
    table = plain_table()
    for title in titles:
        table.add_column(
            title, justify="left" if title in TEXT else "right", overflow="fold", no_wrap=title not in TEXT
        )
    for cells in rows:
        add_row(table, *(cells[title] for title in titles))
    return table


def row(worker: WorkerView) -> dict[str, str]:
    return {
        "WORKER": worker.id,
        "MODEL": ", ".join(worker.models),
        "STATE": state(worker),
        "RUN": f"{worker.running}/{worker.slots}" if worker.slots else str(worker.running),
        "WAIT": str(worker.waiting),
        "KV": f"{worker.kv_usage:.0%}",
        "TOK/S": f"{worker.tokens_per_second:.0f}",
        "ADDRESS": worker.url.removeprefix("http://"),
    }


def natural_width(rows: Sequence[dict[str, str]], titles: Sequence[str]) -> int:
    """Width without wrapping, in characters."""
    return sum(max(len(title), *(len(cells[title]) for cells in rows)) + GAP for title in titles) - GAP


def state(worker: WorkerView) -> str:
    """Such as "ready, breaker open"."""
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
    """`vllama check`: models and static workers."""
    tables = []
    if routing.models:
        models = plain_table("MODEL", "SERVED BY", "ALIASES", "OPTIONS")
        for name, entry in routing.models.items():
            targets = entry.targets(name)
            weighted = len(targets) > 1
            served = [f"{target.model} ({target.weight})" if weighted else target.model for target in targets]
            options = ", ".join(f"{option}={value}" for option, value in entry.option_values().items())
            add_row(models, name, ", ".join(served), ", ".join(entry.aliases or ()), options)
        tables.append(models)
    if routing.workers:
        workers = plain_table("STATIC WORKER", "URL", "SLOTS", "TAGS")
        for worker in routing.workers:
            add_row(workers, worker.label, worker.url, str(worker.slots or "unknown"), ", ".join(worker.tags))
        tables.append(workers)
    return tables

"""`vllama check`: validate a routing file."""

from __future__ import annotations

from pathlib import Path

import click

from vllama_pool.config.routing import table as routing
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.cli.tables import routing_table


@click.command("check", short_help="Validate a routing file.")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Print the models and static workers of the routing file FILE, or all of its mistakes."""
    try:
        table = routing.load(file)
    except routing.RoutingError as error:
        raise CommandFailed(str(error)) from error
    show(output(), routing_table(table))
    models, workers = count(len(table.models), "model"), count(len(table.workers), "static worker")
    click.echo(f"{file}: {models}, {workers}; no problems")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

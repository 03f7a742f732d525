"""`vllama undrain`: give a drained worker requests again."""

from __future__ import annotations

import click

from vllama_pool.config.printable import printable
from vllama_pool.router.cli.commands.drain import ask
from vllama_pool.router.cli.commands.router_client import RouterClient, url_option


@click.command("undrain", short_help="Give a drained worker requests again.")
@click.argument("worker")
@url_option
def command(worker: str, base_url: str | None) -> None:
    """End the drain of WORKER, which vllama drain has begun.

    Exit codes: 0 done, 1 not possible, 2 unknown worker.
    """
    answer = ask(RouterClient(base_url), worker, drain=False)
    name = printable(answer.worker)
    click.echo(f"{name} gets requests again" if answer.changed else f"{name} is not drained")

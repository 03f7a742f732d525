"""`vllama ps`: list the workers as a router sees them."""

from __future__ import annotations

import time

import click

from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted
from vllama_pool.router.cli.commands.router_client import RouterClient, json_option, url_option
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.cli.explanation_text import requests_text
from vllama_pool.router.cli.routing_file_text import problem_lines, revision_lines
from vllama_pool.router.cli.tables import workers_table
from vllama_pool.router.telemetry.aggregate import WorkersPage


@click.command("ps", short_help="Show the workers: models, state and load.")
@url_option
@json_option
def command(base_url: str | None, as_json: bool) -> None:
    """Show each worker's models, state and load, as the router sees them.

    RUN is running requests and slots, WAIT is requests that wait in vLLM, KV is the used part of the KV cache. Below
    the table are the requests that wait in the router, by model, the live revision of the routing file, and why the
    file as it is now is refused.
    """
    router = RouterClient(base_url)
    answer = router.get("/admin/workers")
    page = router.decode(answer, WorkersPage)
    if as_json:
        click.echo(answer.text)
        return
    terminal = output()
    show(terminal, [workers_table(page.workers, terminal.width)] if page.workers else [])
    if not page.workers:
        click.echo("no workers; start one with: vllama worker --model MODEL")
    for each in page.waiting:
        reason = "no worker is available" if each.absent else "the workers or places are full"
        click.echo(printable(f"{each.model}: {requests_text(each.requests)} waiting in the router, as {reason}"))
    for worker_id in page.drained_absent:
        click.echo(printable(f"{worker_id} is drained and absent; vllama undrain {worker_id} ends that"))
    for refused in page.refused:
        minutes = max(1, round(refused.seconds / 60))
        click.echo(printable(f"request {refused.digest[:12]} is refused for {minutes} min: {refused.evidence}"))
    for line in revision_lines(page.routing_file, time.time()):
        click.echo(printable(line))
    for line in problem_lines(page.routing_file):
        click.echo(printable(line), err=True)
    if page.panics:
        named = ", ".join(page.panics)
        click.echo(f"less than half of the workers are healthy, so breakers are ignored: {printable(named)}", err=True)
    if not page.registry_up:
        problem = redacted(page.registry_problem) or "the registry does not answer"
        click.echo(f"workers are shown as last known: {printable(problem)}", err=True)
    if page.processes.answered < page.processes.total:
        answered = f"{page.processes.answered} of {page.processes.total} router processes answered"
        click.echo(f"{answered}; the load of the others is missing", err=True)

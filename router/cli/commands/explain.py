"""`vllama explain`: show why a request went where it went."""

from __future__ import annotations

import click

from vllama_pool.router.cli.commands.router_client import RouterClient, json_option, url_option
from vllama_pool.router.cli.decision_text import decision_text
from vllama_pool.router.telemetry.decision_view import DecisionView


@click.command("explain", short_help="Show why a request went where it went.")
@click.option("--request", "request_id", metavar="ID", required=True, help="Id of a past request, as in the log.")
@url_option
@json_option
def command(request_id: str, base_url: str | None, as_json: bool) -> None:
    """Show the route, the attempts and the sizes of a past request, by its id.

    The router keeps its latest decisions in memory (VLLAMA_DECISIONS). They hold no prompts.
    """
    router = RouterClient(base_url)
    answer = router.get("/admin/explain", {"request": request_id})
    decision = router.decode(answer, DecisionView)
    click.echo(answer.text if as_json else decision_text(decision))

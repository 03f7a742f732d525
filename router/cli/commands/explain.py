"""`vllama explain`: show why a request goes, or went, where it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.router_client import RouterClient, json_option, url_option
from vllama_pool.router.cli.decision_text import decision_text
from vllama_pool.router.telemetry.decision_view import DecisionView

if TYPE_CHECKING:
    from vllama_pool.router.explainer import ModelQuestion


@click.command("explain", short_help="Show why a request goes where it goes.")
@click.argument("model", required=False)
@click.option("--request", "request_id", metavar="ID", help="Explain a past request, by its id in the log.")
@click.option("--operation", default="chat", show_default=True, help="The kind of the request in --body.")
@click.option("--key", default="", metavar="NAME", help="Ask with the rights of this API key.")
@click.option("--user", default="", metavar="NAME", help="Ask for this end user.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Ask with this header; repeatable.")
@click.option("--prompt-tokens", type=click.IntRange(min=0), default=0, metavar="N", help="Length of the prompt.")
@click.option(
    "--body",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A request in JSON, as a client would send it. It is not sent to a worker.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask this routing file instead of a router. Nothing is known of workers then.",
)
@url_option
@json_option
def command(
    model: str | None,
    request_id: str | None,
    operation: str,
    key: str,
    user: str,
    headers: tuple[str, ...],
    prompt_tokens: int,
    body: Path | None,
    file: Path | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Show which rule decides on a request for MODEL, its targets, the scores of all candidates, and the fallbacks.

    Nothing is sent to a worker, and no state changes: the next such request goes as shown. Equal workers, and targets
    without a split, are drawn at random.

    With --request, show the route, the attempts and the sizes of a past request. The router keeps its latest decisions
    in memory (VLLAMA_DECISIONS). They hold no prompts.
    """
    if request_id is not None:
        if model is not None or file is not None:
            raise click.UsageError("--request explains a past request; leave MODEL and --file out")
        _show_past(request_id, base_url, as_json)
        return
    if model is None and body is None:
        raise click.UsageError("name a MODEL, or a past request with --request ID")
    from vllama_pool.router.explainer import ModelQuestion

    question = ModelQuestion(
        model or "",
        operation,
        key,
        user,
        headers=dict(_header(each) for each in headers),
        prompt_tokens=prompt_tokens,
        body=_json_of(body) if body is not None else msgspec.Raw(b"null"),
    )
    if file is not None:
        _show_by_file(file, question, as_json)
    else:
        _show_by_router(question, base_url, as_json)


def _show_past(request_id: str, base_url: str | None, as_json: bool) -> None:
    router = RouterClient(base_url)
    answer = router.get("/admin/explain", {"request": request_id})
    decision = router.decode(answer, DecisionView)
    click.echo(answer.text if as_json else decision_text(decision))


def _show_by_router(question: ModelQuestion, base_url: str | None, as_json: bool) -> None:
    from vllama_pool.router.cli.explanation_text import explanation_text
    from vllama_pool.router.routing.explain import UNKNOWN, Explanation

    router = RouterClient(base_url)
    answer = router.post("/admin/explain", msgspec.json.encode(question))
    explanation = router.decode(answer, Explanation)
    click.echo(answer.text if as_json else explanation_text(explanation))
    if explanation.outcome == UNKNOWN:
        raise SystemExit(1)


def _show_by_file(file: Path, question: ModelQuestion, as_json: bool) -> None:
    from vllama_pool.config.routing import table as routing
    from vllama_pool.router.cli.commands.file_explanation import explain_file
    from vllama_pool.router.cli.explanation_text import explanation_text
    from vllama_pool.router.routing.explain import UNKNOWN

    try:
        explanation = explain_file(routing.load(file), question)
    except routing.RoutingError as error:
        raise CommandFailed(str(error)) from error
    encoded = msgspec.json.encode(explanation).decode()
    click.echo(encoded if as_json else explanation_text(explanation, live=False))
    if explanation.outcome == UNKNOWN:
        raise SystemExit(1)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError("--header is NAME:VALUE, such as x-session-id:42")
    return name.strip(), value.strip()


def _json_of(body: Path) -> msgspec.Raw:
    try:
        data = body.read_bytes()
        msgspec.json.decode(data)
    except OSError as error:
        raise CommandFailed(f"{body}: {error.strerror or 'cannot be read'}; name a readable file") from None
    except msgspec.MsgspecError as error:
        raise CommandFailed(f"{body}: not JSON ({error}); correct it") from None
    return msgspec.Raw(data)

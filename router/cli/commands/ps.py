"""`vllama ps`: list the workers as a router sees them."""

from __future__ import annotations

import click
import httpx
import msgspec

from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.cli.commands.common import CommandFailed, read, unreachable
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.cli.tables import workers_table
from vllama_pool.router.supervisor.listening_socket import url
from vllama_pool.router.telemetry.aggregate import WorkersPage
from vllama_pool.workers.vllm.connection_problem import explain, explain_protocol_error
from vllama_pool.workers.vllm.trust_store import trust_store


@click.command("ps", short_help="Show the workers: models, state and load.")
@click.option(
    "--url",
    "base_url",
    metavar="URL",
    help="URL of the router (default: VLLAMA_HOST or OLLAMA_HOST, else http://127.0.0.1:11434).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the router's JSON response.")
def command(base_url: str | None, as_json: bool) -> None:
    """Show each worker's models, state and load, as the router sees them.

    RUN is running requests and slots, WAIT is requests that wait in vLLM, KV is the used part of the KV cache.
    """
    settings = read(RouterSettings)
    base_url = (base_url or url(settings.host, settings.port)).rstrip("/")
    if "://" not in base_url:
        base_url = f"http://{base_url}"
    key = settings.admin_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(
            f"{base_url}/admin/workers",
            headers=headers,
            timeout=5.0,
            trust_env=False,
            verify=trust_store() if base_url.startswith("https:") else True,
        )
    except httpx.InvalidURL:
        raise CommandFailed("--url is not a URL; write http://HOST:PORT") from None
    except httpx.HTTPError as error:
        tls = base_url.startswith("https:")
        invalid = isinstance(error, httpx.RemoteProtocolError)
        why = explain_protocol_error(str(error), tls=tls) if invalid else explain(error, tls=tls)
        cure = "start one with vllama serve, or give its address with --url"
        raise CommandFailed(unreachable("router", base_url, why, cure)) from error
    if answer.status_code != httpx.codes.OK:
        raise CommandFailed(f"{base_url} answered {answer.status_code}: {printable(error_of(answer.content))}")
    try:
        page = msgspec.json.decode(answer.content, type=WorkersPage)
    except msgspec.MsgspecError as error:
        raise CommandFailed(f"{base_url} is not a vLLama router; give another --url ({error})") from error
    if as_json:
        click.echo(answer.text)
        return
    terminal = output()
    show(terminal, [workers_table(page.workers, terminal.width)] if page.workers else [])
    if not page.workers:
        click.echo("no workers; start one with: vllama worker --model MODEL")
    if not page.registry_up:
        problem = redacted(page.registry_problem) or "the registry does not answer"
        click.echo(f"workers are shown as last known: {printable(problem)}", err=True)
    if page.processes.answered < page.processes.total:
        answered = f"{page.processes.answered} of {page.processes.total} router processes answered"
        click.echo(f"{answered}; the load of the others is missing", err=True)


def error_of(body: bytes) -> str:
    """Omits pages of servers that are not a router."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error
    except msgspec.MsgspecError:
        return "that is not a vLLama router; give another --url"


class ErrorBody(msgspec.Struct):
    error: str

"""The command line: `vllama serve | worker | ps | check | key`.

Only this module reads the environment and builds settings. Whatever is wrong is one line on stderr, and an
exit code that is not 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import httpx
import msgspec
from pydantic import ValidationError
from rich.console import Console as Terminal
from rich.table import Table

from config import routing
from config.environment import unknown, variables_of
from config.keys import parse_keys
from config.settings import RouterSettings, WorkerSettings, explain
from router.console import Console
from router.launch import LISTEN_FD, CannotLaunch, url
from router.merging import WorkersPage
from router.serve import Workers
from router.serve import serve as run_serve
from router.siblings import PLACE
from router.table import routing_table, workers_table
from workers.agent import run_agent
from workers.launch import ENGINES, AgentSpec
from workers.status import STATUS_FD

SettingsT = TypeVar("SettingsT", RouterSettings, WorkerSettings)

PASS_ON = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""vLLM's flags are vLLM's business: what is no option of ours goes to it as it is."""


INTERNAL = ("VLLAMA_VLLM", STATUS_FD, LISTEN_FD, PLACE)
"""Our variables that are no settings."""
PIPED_WIDTH = 1000
"""Columns of a table that is not for a terminal: wide enough for scripts to find a worker on one line."""


class Wrong(click.ClickException):
    """One line, or one for each problem, on stderr."""

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"vllama: {line}", err=True)


@click.group()
@click.version_option(version("vllama"), prog_name="vllama", message="%(prog)s %(version)s")
def main() -> None:
    """One Ollama URL in front of a pool of vLLM servers."""


@main.command(context_settings=PASS_ON, short_help="Run the router, and a worker for every --model.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Also run a worker for this model. Repeatable.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Name of the worker, one for each --model.")
@click.option("--host", help="Address to listen on (127.0.0.1, or what OLLAMA_HOST says).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (11434, or what OLLAMA_HOST says).")
@click.option("--vllm-port", type=click.IntRange(1, 65535), help="Port of the first vLLM; others follow (8100).")
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers for each model.")
@click.option("--gpus", default="", metavar="LIST", help="GPUs such as 0,1,2,3, dealt out evenly to the workers.")
@click.option("--routing", "routing_file", metavar="FILE", help="Routing file (see: vllama check).")
@click.option("--processes", type=click.IntRange(1, 64), help="Router processes (1).")
@click.option("--redis-url", metavar="URL", help="A Redis instead of the embedded registry. Or set REDIS_URL.")
@click.option("--allow-anonymous", is_flag=True, help="Listen on a public address without API keys.")
@click.option("--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: no model and no GPU, for tests.")
@click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")
def serve(
    models: tuple[str, ...],
    names: tuple[str, ...],
    host: str | None,
    port: int | None,
    vllm_port: int | None,
    replicas: int,
    gpus: str,
    routing_file: str | None,
    processes: int | None,
    redis_url: str | None,
    allow_anonymous: bool,
    engine: str,
    vllm_args: tuple[str, ...],
) -> None:
    """Run the router, and a worker for every --model.

    Any other flag goes to vLLM, such as --gpu-memory-utilization 0.3 or --max-model-len 8192.
    """
    if vllm_args and not models:
        raise click.UsageError(
            f"{vllm_args[0]!r} is no option of serve, and there is no --model whose vLLM would get it"
        )
    export(
        {
            "VLLAMA_HOST": host,
            "VLLAMA_PORT": port,
            "VLLAMA_WORKER_PORT": vllm_port,
            "VLLAMA_ROUTING_FILE": routing_file,
            "VLLAMA_PROCESSES": processes,
            "VLLAMA_REDIS_URL": redis_url,
            "VLLAMA_ALLOW_ANONYMOUS": "1" if allow_anonymous else None,
        }
    )
    warn_of_unknown()
    settings = read(RouterSettings)
    worker_settings = read(WorkerSettings)
    workers = Workers(
        models=models,
        names=names,
        replicas=replicas,
        first_port=worker_settings.port,
        host=worker_settings.advertise,
        gpus=[gpu.strip() for gpu in gpus.split(",") if gpu.strip()],
        engine=engine,
        args=vllm_args,
    )
    try:
        code = run_serve(settings, workers, Console(sys.stdout, sys.stderr))
    except (CannotLaunch, routing.RoutingError) as error:
        raise Wrong(str(error)) from error
    sys.exit(code)


@main.command(context_settings=PASS_ON, short_help="Run one vLLM and announce it to the routers.")
@click.option("--model", help="A folder, or a name such as Qwen/Qwen3-8B.")
@click.option("--name", help="The worker's name; unique in the fleet (made of model, host and port).")
@click.option("--advertise", metavar="HOST", help="This machine's address for routers (127.0.0.1). vLLM listens there.")
@click.option("--port", type=click.IntRange(1, 65535), help="vLLM's port (8100, or the next free one).")
@click.option("--attach", metavar="URL", help="Announce a vLLM that somebody else runs, instead of starting one.")
@click.option("--redis-url", metavar="URL", help="A Redis instead of the embedded registry. Or set REDIS_URL.")
@click.option("--tag", "tags", multiple=True, help="A word for this worker. Repeatable.")
@click.option("--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: no model and no GPU, for tests.")
@click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")
def worker(
    model: str | None,
    name: str | None,
    advertise: str | None,
    port: int | None,
    attach: str | None,
    redis_url: str | None,
    tags: tuple[str, ...],
    engine: str,
    vllm_args: tuple[str, ...],
) -> None:
    """Run one vLLM, announce it to the routers of its fleet, and keep it running.

    It may start before the router does. Any other flag goes to vLLM, such as --gpu-memory-utilization 0.3.
    """
    if engine == "simulated" and not attach:
        model = model or "simulated"
    spec = AgentSpec(
        model=model or "",
        name=name or "",
        port=port,
        flags=vllm_args,
        attach=attach or "",
        engine=engine,
        tags=tags,
    )
    export({"VLLAMA_ADVERTISE": advertise, "VLLAMA_REDIS_URL": redis_url})
    if STATUS_FD not in os.environ:  # else the supervisor has said it
        warn_of_unknown()
    sys.exit(asyncio.run(run_agent(spec, read(WorkerSettings))))


@main.command(short_help="Show the workers: models, state and load.")
@click.option("--url", "base_url", help="The router (that of VLLAMA_HOST or OLLAMA_HOST, else http://127.0.0.1:11434).")
@click.option("--json", "as_json", is_flag=True, help="Print the router's own answer.")
def ps(base_url: str | None, as_json: bool) -> None:
    """Show the workers: models, state and load, as the router sees them."""
    settings = read(RouterSettings)
    base_url = (base_url or url(settings.host, settings.port)).rstrip("/")
    if "://" not in base_url:
        base_url = f"http://{base_url}"
    key = settings.admin_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(f"{base_url}/admin/workers", headers=headers, timeout=5.0, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Wrong(
            f"no router answers at {base_url} ({error or type(error).__name__}); start one with vllama serve, "
            "or name another one with --url"
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise Wrong(f"{base_url} answered {answer.status_code}: {complaint(answer.content)}")
    try:
        page = msgspec.json.decode(answer.content, type=WorkersPage)
    except msgspec.MsgspecError as error:
        raise Wrong(f"{base_url} is no vLLama router: {error}") from error
    if as_json:
        click.echo(answer.text)
        return
    terminal = output()
    show(terminal, [workers_table(page.workers, terminal.width)] if page.workers else [])
    if not page.workers:
        click.echo("no workers; start one with: vllama worker --model MODEL")
    if not page.registry_up:
        click.echo("the registry does not answer: these are the workers as last seen", err=True)
    if page.processes.answered < page.processes.total:
        asked = f"{page.processes.answered} of {page.processes.total} router processes answered"
        click.echo(f"{asked}: what the others do is missing here", err=True)


@main.command(short_help="Check a routing file.")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Say what a routing file means, or everything that is wrong with it."""
    try:
        table = routing.load(file)
    except routing.RoutingError as error:
        raise Wrong(str(error)) from error
    show(output(), routing_table(table))
    models, workers = count(len(table.models), "model"), count(len(table.workers), "static worker")
    click.echo(f"{file}: {models}, {workers}; no problems")


@main.group()
def key() -> None:
    """Make API keys."""


@key.command("new")
@click.argument("name")
def new_key(name: str) -> None:
    """Make an API key for NAME. It is shown this once; the router knows its SHA-256 only."""
    secret = f"vllama-{secrets.token_urlsafe(32)}"
    entry = f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"
    try:
        parse_keys(entry)
    except ValueError:
        raise Wrong(f"{name!r} cannot name a key; use letters, digits, '.', '_' and '-'") from None
    click.echo(f"for the client:  {secret}")
    click.echo(f"for the router:  VLLAMA_API_KEYS={entry}   (or a line of the file VLLAMA_API_KEYS_FILE)")


def export(variables: dict[str, str | int | None]) -> None:
    """Options are the strongest settings: said in the environment they also reach every child."""
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})


def warn_of_unknown() -> None:
    """A setting that is misspelt has no effect, and nobody would notice."""
    known = {*variables_of(RouterSettings), *variables_of(WorkerSettings), *INTERNAL}
    for line in unknown(os.environ, known):
        click.echo(f"vllama: {line}", err=True)


def read(kind: type[SettingsT]) -> SettingsT:
    """Settings from the environment. Raises Wrong with a line for each mistake."""
    try:
        return kind()
    except ValidationError as error:
        raise Wrong("\n".join(explain(error))) from error


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def complaint(body: bytes) -> str:
    """What a router says is wrong; other servers' pages are not shown."""
    try:
        return msgspec.json.decode(body, type=Complaint).error
    except msgspec.MsgspecError:
        return "that is no vLLama router; name another one with --url"


class Complaint(msgspec.Struct):
    """The body of a router's refusal."""

    error: str


def output() -> Terminal:
    return Terminal() if sys.stdout.isatty() else Terminal(width=PIPED_WIDTH)


def show(terminal: Terminal, tables: Sequence[Table]) -> None:
    try:
        for number, table in enumerate(tables):
            if number:
                terminal.print()
            terminal.print(table)
    except OSError as error:
        raise Wrong(f"cannot write the answer: {error.strerror}") from error


if __name__ == "__main__":
    main(prog_name="vllama")

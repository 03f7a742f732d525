"""`vllama compat`: compare a server with Ollama, rule by rule."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.compat.check import Check
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.columns import plain
from vllama_pool.router.compat.models import ModelChoice, OfferedModel, capabilities, choose, listed
from vllama_pool.router.compat.report import WIDE, Row, by_rule, closing, machine, table
from vllama_pool.router.compat.rule import Rule
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.runner import Result, run
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import InvalidResponse, ServerUrl, parse_url, reason


class CouldNotRun(CommandFailed):
    """The checks could not run."""

    exit_code = 2


@click.command("compat", short_help="Show where a server differs from Ollama.")
@click.argument("url", required=False)
@click.option("--model", help="Model for chats (default: the smallest that can chat).")
@click.option("--embed-model", help="Model for embeddings.")
@click.option("--thinking-model", help="Model that can think.")
@click.option("--tools-model", help="Model that can call tools.")
@click.option("--vision-model", help="Model that accepts images.")
@click.option("--key", help="API key, sent as a bearer token.")
@click.option("--rule", "wanted", multiple=True, metavar="R044", help="Check only this rule. Repeatable.")
@click.option("--writes", is_flag=True, help="Also create, copy, pull and delete models.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to wait for one answer."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--list", "as_list", is_flag=True, help="Print the rules and how each is checked, without contacting a server."
)
def command(
    url: str | None,
    wanted: tuple[str, ...],
    writes: bool,
    timeout: float,
    key: str | None,
    as_json: bool,
    as_list: bool,
    **models: str | None,
) -> None:
    """Check the server at URL against Ollama's API, and show the differences that clients could notice.

    Exit code: 0 = identical, 1 = differences found, 2 = the server could not be checked. Sends about 400 small
    requests, of which about 50 generate a few tokens each. Models are loaded and unloaded.
    """
    if as_list:
        terminal = output()
        show(terminal, [listing(terminal.width)])
        return
    if not url:
        raise CouldNotRun("the URL of the server is missing; give one, such as http://127.0.0.1:11434")
    rules = chosen(wanted)
    checks = [
        check for check in CHECKS if check.rules & {rule.number for rule in rules} and (writes or not check.writes)
    ]
    given = ModelChoice(
        **{use.removesuffix("_model") if use != "model" else "chat": name for use, name in models.items()}
    )
    found, asked = asyncio.run(look(where(url), given, checks, rules, key=key, timeout=timeout))
    unseen = sum(not rule.outside for rule in rules)
    if as_json:
        click.echo(json.dumps(machine(url, asked.known(), found, unseen), ensure_ascii=False, indent=2))
    else:
        terminal = output()
        show(terminal, [table(found, terminal.width)] if found else [])
        click.echo(closing(found, unseen, len(rules) - len(found) - unseen))
    if any(row.result is Result.DIFFERS for row in found):
        raise SystemExit(1)


async def look(
    at: ServerUrl, wanted: ModelChoice, checks: list[Check], rules: list[Rule], *, key: str | None, timeout: float
) -> tuple[list[Row], ModelChoice]:
    """Run the checks. Return the rows of the report and the models that were used. Raises CouldNotRun."""
    models = await known_models(CheckedServer(at, wanted, key=key, timeout=timeout), wanted)
    server = CheckedServer(at, models, key=key, timeout=timeout)
    with Console(stderr=True).status("") as status:
        outcomes = await run(server, checks, progress=lambda check: status.update(escape(check.name.replace("_", " "))))
    return by_rule(outcomes, rules), models


async def known_models(server: CheckedServer, wanted: ModelChoice) -> ModelChoice:
    """Choose a model for each use from those that the server lists. Raises CouldNotRun."""
    where = f"http{'s' if server.url.tls else ''}://{server.url.authority}{server.url.prefix}"
    try:
        tags = await server.get("/api/tags")
        if tags.status in (401, 403):
            raise CouldNotRun(f"{where} requires an API key ({tags.status}); give one with --key")
        if not isinstance(from_json(tags.body), dict):
            raise CouldNotRun(
                f"{where} is not an Ollama server: {tags.status} and no JSON for /api/tags; correct the URL"
            )
        for name in wanted.known().values():
            shown = await server.once("/api/show", {"model": name})
            if shown.status == 404 and isinstance(from_json(shown.body), dict):
                raise CouldNotRun(f"{where} has no model {name}; name one that it lists")
        return choose([await described(server, model) for model in listed(from_json(tags.body))], wanted)
    except TimeoutError as error:
        raise CouldNotRun(f"{where} gives no answer in time; wait longer with --timeout, or name another") from error
    except (OSError, InvalidResponse) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise CouldNotRun(f"no server answers at {where} ({why}); start one, or name another") from error


async def described(server: CheckedServer, model: OfferedModel) -> OfferedModel:
    """Add a model's capabilities from /api/show if the list lacks them, as that of older servers does."""
    if model.capabilities:
        return model
    shown = await server.once("/api/show", {"model": model.name})
    return replace(model, capabilities=capabilities(from_json(shown.body)))


def from_json(body: bytes) -> Any:
    """Decode a body; None if it is not JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def where(url: str) -> ServerUrl:
    try:
        return parse_url(url)
    except ValueError as error:
        raise CouldNotRun(str(error)) from error


def chosen(wanted: tuple[str, ...]) -> list[Rule]:
    """Return the requested rules, or all if none was requested. Raises CouldNotRun."""
    by_name = {rule.name: rule for rule in RULES}
    unknown = [name for name in wanted if name.upper() not in by_name]
    if unknown:
        raise CouldNotRun(f"{unknown[0]} is not a rule; rules go from R001 to {RULES[-1].name}, see --list")
    return [by_name[name.upper()] for name in wanted] or list(RULES)


def listing(width: int) -> Table:
    """`--list`: every rule and how it is checked. A narrow terminal gets no GROUP column."""
    wide = width >= WIDE
    found = plain("RULE", "GROUP", "ABOUT", "HOW") if wide else plain("RULE", "ABOUT", "HOW")
    for rule in RULES:
        group = (rule.group,) if wide else ()
        found.add_row(rule.name, *group, rule.title, how(rule))
    return found


def how(rule: Rule) -> str:
    if rule.left_out:
        return f"left out: {rule.left_out}"
    if rule.inside:
        return f"tested inside: {rule.inside}"
    checks = sum(rule.number in check.rules for check in CHECKS)
    return "1 check" if checks == 1 else f"{checks} checks"

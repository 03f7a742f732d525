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

from vllama_pool.router.cli.commands.common import CommandFailed, unreachable
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.checks.check import Check
from vllama_pool.router.compat.columns import plain_table
from vllama_pool.router.compat.models import ModelChoice, OfferedModel, capabilities, choose, parse_tags
from vllama_pool.router.compat.report import WIDE, Row, by_rule, json_report, summary_line, table
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.rules.rule import Rule
from vllama_pool.router.compat.runner import Result, run
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import InvalidResponse, ServerUrl, parse_url
from vllama_pool.workers.vllm.connection_problem import explain


class CouldNotRun(CommandFailed):
    exit_code = 2


@click.command("compat", short_help="Check a server against Ollama's API.")
@click.argument("url", required=False)
@click.option("--model", metavar="MODEL", help="Model for chats (default: the smallest that can chat).")
@click.option("--embed-model", metavar="MODEL", help="Model for embeddings (default: the smallest that can embed).")
@click.option("--thinking-model", metavar="MODEL", help="Model for thinking (default: the smallest that can think).")
@click.option("--tools-model", metavar="MODEL", help="Model for tools (default: the smallest that can call tools).")
@click.option("--vision-model", metavar="MODEL", help="Model for images (default: the smallest that accepts images).")
@click.option("--audio-model", metavar="MODEL", help="Model for audio (default: the smallest that accepts audio).")
@click.option("--key", metavar="KEY", help="API key, sent as a bearer token.")
@click.option(
    "--rule", "rule_names", multiple=True, metavar="RULE", help="Check only this rule, such as R044. Repeatable."
)
@click.option("--writes", is_flag=True, help="Also create, copy, pull and delete models, under names of its own.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to wait for each response."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--list", "as_list", is_flag=True, help="List the rules and how each is checked. Needs no URL.")
def command(
    url: str | None,
    rule_names: tuple[str, ...],
    writes: bool,
    timeout: float,
    key: str | None,
    as_json: bool,
    as_list: bool,
    **models: str | None,
) -> None:
    """Check the server at URL against Ollama's API, and show each rule that it breaks.

    Sends about 820 small requests; about 250 of them generate a few tokens. Loads and unloads models, and changes none
    without --writes. A rule is skipped if the server has no suitable model.

    Exit code: 0 = no difference, 1 = differences found, 2 = the server could not be checked.
    """
    if as_list:
        terminal = output()
        show(terminal, [rules_table(terminal.width)])
        return
    if not url:
        raise CouldNotRun("the URL of the server is missing; give one, such as http://127.0.0.1:11434")
    rules = requested_rules(rule_names)
    checks = [
        check for check in CHECKS if check.rules & {rule.number for rule in rules} and (writes or not check.writes)
    ]
    requested = ModelChoice(
        **{use.removesuffix("_model") if use != "model" else "chat": name for use, name in models.items()}
    )
    rows, chosen = asyncio.run(run_checks(server_url(url), requested, checks, rules, key=key, timeout=timeout))
    not_checked = sum(not rule.has_checks for rule in rules)
    if as_json:
        click.echo(json.dumps(json_report(url, chosen.names(), rows, not_checked), ensure_ascii=False, indent=2))
    else:
        terminal = output()
        show(terminal, [table(rows, terminal.width)] if rows else [])
        click.echo(summary_line(rows, not_checked, len(rules) - len(rows) - not_checked))
    if any(row.result is Result.DIFFERS for row in rows):
        raise SystemExit(1)


async def run_checks(
    url: ServerUrl, requested: ModelChoice, checks: list[Check], rules: list[Rule], *, key: str | None, timeout: float
) -> tuple[list[Row], ModelChoice]:
    """Raises CouldNotRun."""
    models = await choose_models(CheckedServer(url, requested, key=key, timeout=timeout), requested)
    server = CheckedServer(url, models, key=key, timeout=timeout)
    with Console(stderr=True).status("") as status:
        outcomes = await run(server, checks, progress=lambda check: status.update(escape(check.name.replace("_", " "))))
    return by_rule(outcomes, rules), models


async def choose_models(server: CheckedServer, requested: ModelChoice) -> ModelChoice:
    """Choose from the models that the server lists. Raises CouldNotRun."""
    where = f"http{'s' if server.url.tls else ''}://{server.url.authority}{server.url.prefix}"
    try:
        tags = await server.get("/api/tags")
        if tags.status in (401, 403):
            raise CouldNotRun(f"{where} requires an API key ({tags.status}); give one with --key")
        if not isinstance(from_json(tags.body), dict):
            raise CouldNotRun(
                f"{where} is not an Ollama server: {tags.status} and no JSON for /api/tags; correct the URL"
            )
        for name in requested.names().values():
            response = await server.post_cached("/api/show", {"model": name})
            if response.status == 404 and isinstance(from_json(response.body), dict):
                raise CouldNotRun(f"{where} has no model {name}; name one that it lists")
        return choose([await with_capabilities(server, model) for model in parse_tags(from_json(tags.body))], requested)
    except TimeoutError as error:
        raise CouldNotRun(f"{where} does not answer in time; wait longer with --timeout, or correct the URL") from error
    except OSError as error:
        raise CouldNotRun(
            unreachable("server", where, explain(error, tls=server.url.tls), "start one, or correct the URL")
        ) from error
    except InvalidResponse as error:
        cure = "correct the URL" if server.url.tls else "correct the URL, or use https:// if the port speaks TLS"
        raise CouldNotRun(f"no server answers at {where} ({error}); {cure}") from error


async def with_capabilities(server: CheckedServer, model: OfferedModel) -> OfferedModel:
    """Ask /api/show if /api/tags lacks them, as in older servers."""
    if model.capabilities:
        return model
    response = await server.post_cached("/api/show", {"model": model.name})
    return replace(model, capabilities=capabilities(from_json(response.body)))


def from_json(body: bytes) -> Any:
    """None if the body is not JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def server_url(url: str) -> ServerUrl:
    try:
        return parse_url(url)
    except ValueError as error:
        raise CouldNotRun(str(error)) from error


def requested_rules(names: tuple[str, ...]) -> list[Rule]:
    """Raises CouldNotRun."""
    by_name = {rule.name: rule for rule in RULES}
    unknown = [name for name in names if name.upper() not in by_name]
    if unknown:
        raise CouldNotRun(f"{unknown[0]} is not a rule; rules go from R001 to {RULES[-1].name}, see --list")
    return [by_name[name.upper()] for name in names] or list(RULES)


def rules_table(width: int) -> Table:
    """A narrow terminal gets no GROUP column."""
    wide = width >= WIDE
    rows = plain_table("RULE", "GROUP", "ABOUT", "CHECKED BY") if wide else plain_table("RULE", "ABOUT", "CHECKED BY")
    for rule in RULES:
        group = (rule.group,) if wide else ()
        rows.add_row(rule.name, *group, rule.title, checked_by(rule))
    return rows


def checked_by(rule: Rule) -> str:
    if rule.not_implemented:
        return f"not implemented: {rule.not_implemented}"
    if rule.unobservable:
        return f"not observable: {rule.unobservable}"
    checks = sum(rule.number in check.rules for check in CHECKS)
    return "1 check" if checks == 1 else f"{checks} checks"

"""`vllama check`: validate a routing file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from pydantic import ValidationError

from vllama_pool.config.printable import printable
from vllama_pool.config.routing import table as routing
from vllama_pool.config.routing.queue_checks import unable_to_wait
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.cli.commands.common import CommandFailed
from vllama_pool.router.cli.commands.router_client import url_option
from vllama_pool.router.cli.commands.terminal import output, show
from vllama_pool.router.cli.comparison import ComparisonView, comparison_text, view_comparison
from vllama_pool.router.cli.findings import (
    ERROR,
    Finding,
    as_error,
    as_warning,
    errors_of,
    github_command,
    text_line,
    warnings_of,
)
from vllama_pool.router.cli.tables import routing_table
from vllama_pool.router.routing.lint import lint

FORMATS = ("text", "json", "github")
INVALID = 1
COULD_NOT_CHECK = 2


class CouldNotCheck(CommandFailed):
    """A file that cannot be read, or a router that cannot be asked."""

    exit_code = COULD_NOT_CHECK


class Checked(msgspec.Struct, omit_defaults=True):
    """The output of `--json`."""

    file: str
    revision: str
    """"" for an invalid file."""
    models: int
    workers: int
    errors: list[Finding]
    warnings: list[Finding]
    against: ComparisonView | None = None
    """Only with `--against`."""


@click.command("check", short_help="Validate a routing file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="text",
    help="json: one object. github: workflow commands, which GitHub shows in pull requests.",
)
@click.option("--live", is_flag=True, help="Ask the running router whether its workers serve what the file names.")
@click.option(
    "--against",
    "source",
    metavar="last|RECORDING",
    help="Replay recorded requests, and show what would change: the latest of a running router, or a file that was "
    "saved from GET /admin/decisions.",
)
@click.option(
    "--current",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --against: compare with this routing file instead of with what happened.",
)
@url_option
def command(
    file: Path,
    strict: bool,
    as_json: bool,
    output_format: str,
    live: bool,
    source: str | None,
    current: Path | None,
    base_url: str | None,
) -> None:
    """Print the models and static workers of the routing file FILE, or all of its mistakes.

    Errors keep a router from using the file. Warnings are parts that have no effect or surprise.

    Exit codes: 0 without errors, 1 with errors or if recorded requests would become unroutable, 2 if the file could
    not be checked.
    """
    table, checked = _check(file)
    if live and table is not None:
        checked.warnings += _live_warnings(file, table, base_url)
    if source is not None and table is not None:
        checked.against = _compare(source, table, current, base_url)
    if strict:
        checked.errors, checked.warnings = [*checked.errors, *map(as_error, checked.warnings)], []
    _print(checked, table, "json" if as_json else output_format)
    if checked.errors or (checked.against is not None and checked.against.unroutable):
        raise SystemExit(INVALID)


def _check(file: Path) -> tuple[routing.RoutingTable | None, Checked]:
    checked = Checked(str(file), "", 0, 0, [], [])
    try:
        with file.open("rb"):
            pass
        table = routing.load(file)
    except OSError as error:
        raise CouldNotCheck(f"{file}: {error.strerror or 'cannot be read'}; name a readable file") from None
    except routing.RoutingError as error:
        checked.errors = errors_of(error)
        return None, checked
    checked.revision, checked.models, checked.workers = table.revision, len(table.models), len(table.workers)
    blocked = [as_warning(problem, str(file)) for problem in unable_to_wait(table, _max_queue())]
    checked.warnings = [*blocked, *warnings_of(table, str(file), lint(table))]
    return table, checked


def _max_queue() -> int:
    """Return the setting of this environment, which the router may share."""
    try:
        return RouterSettings().max_queue
    except ValidationError:  # `vllama serve` reports it
        return 1


def _live_warnings(file: Path, table: routing.RoutingTable, base_url: str | None) -> list[Finding]:
    from vllama_pool.router.cli.commands.against import read_workers
    from vllama_pool.router.cli.commands.live import live_remarks

    try:
        return warnings_of(table, str(file), live_remarks(table, read_workers(base_url)))
    except CommandFailed as error:
        raise CouldNotCheck(error.message) from error


def _compare(source: str, table: routing.RoutingTable, current: Path | None, base_url: str | None) -> ComparisonView:
    from vllama_pool.router.cli.commands.against import compare_tables, read_recording

    try:
        before = routing.load(current) if current is not None else None
        recording = read_recording(source, base_url)
        return view_comparison(compare_tables(recording, table, before), live=recording.workers is not None)
    except (CommandFailed, routing.RoutingError) as error:
        raise CouldNotCheck(str(error)) from error


def _print(checked: Checked, table: routing.RoutingTable | None, output_format: str) -> None:
    findings = [*checked.errors, *checked.warnings]
    if output_format == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(checked)).decode())
        return
    if output_format == "github":
        findings += unroutable_errors(checked.file, checked.against) if checked.against is not None else []
        for finding in findings:
            click.echo(github_command(finding, Path.cwd()))
        return
    if table is not None:
        show(output(), routing_table(table))
    for finding in findings:
        click.echo(f"vllama: {text_line(finding)}", err=True)
    if table is not None:
        click.echo(f"{printable(checked.file)}: {summary(checked)}")
    if checked.against is not None:
        click.echo(comparison_text(checked.against))


def unroutable_errors(file: str, against: ComparisonView) -> list[Finding]:
    texts = (
        f"{count(each.requests, 'recorded request')} for '{each.requested}' would become unroutable: {each.reason}"
        for each in against.refusals
    )
    return [Finding(ERROR, file, 0, 0, "", text) for text in texts]


def summary(checked: Checked) -> str:
    models, workers = count(checked.models, "model"), count(checked.workers, "static worker")
    found = ((checked.errors, "error"), (checked.warnings, "warning"))
    problems = ", ".join(count(len(findings), noun) for findings, noun in found if findings)
    return f"{models}, {workers}; {problems or 'no problems'}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Errors and warnings of `vllama check`, and their formats: text, JSON, workflow commands of GitHub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from vllama_pool.config.printable import printable
from vllama_pool.config.redaction import redacted
from vllama_pool.config.routing.places import Place, Problem, dotted
from vllama_pool.config.routing.table import RoutingError, RoutingTable
from vllama_pool.router.routing.lint import Remark, place_of

ERROR, WARNING = "error", "warning"


class Finding(msgspec.Struct, frozen=True):
    severity: str
    """"error" or "warning"."""
    file: str
    line: int
    """From 1; 0 for the whole file."""
    column: int
    key: str
    """Such as models.llama3.2.serve[0]."""
    message: str
    """"what is wrong; what to do"."""


def errors_of(error: RoutingError) -> list[Finding]:
    return [
        Finding(ERROR, problem.file, problem.line, problem.column, _clean(problem.key), _clean(problem.message))
        for problem in error.problems
    ]


def warnings_of(table: RoutingTable, file: str, remarks: Iterable[Remark]) -> list[Finding]:
    """Place the remarks in the file, in its order."""
    return sorted((_warning(table, file, remark) for remark in remarks), key=lambda each: (each.line, each.column))


def as_warning(problem: Problem, file: str) -> Finding:
    key, message = _clean(problem.key), _clean(problem.message)
    return Finding(WARNING, problem.file or file, problem.line, problem.column, key, message)


def as_error(warning: Finding) -> Finding:
    return msgspec.structs.replace(warning, severity=ERROR)


def text_line(finding: Finding) -> str:
    """Return "FILE:LINE:COL: key: what is wrong; what to do"."""
    place = Place(finding.file, finding.line, finding.column).exact
    kind = "warning: " if finding.severity == WARNING else ""
    return printable(f"{place}: {kind}{_what(finding)}")


def github_command(finding: Finding, folder: Path) -> str:
    """Return a workflow command, which GitHub shows at the line of a pull request. `folder`: the working folder, to
    which GitHub expects paths relative."""
    path = Path(finding.file)
    properties = {"file": str(path.relative_to(folder) if path.is_relative_to(folder) else path)}
    if finding.line:
        properties |= {"line": str(finding.line), "col": str(finding.column)}
    listed = ",".join(f"{name}={_escape(value, _IN_PROPERTIES)}" for name, value in properties.items())
    return f"::{finding.severity} {listed}::{_escape(_what(finding), _IN_TEXT)}"


_IN_TEXT: Mapping[str, str] = MappingProxyType({"%": "%25", "\r": "%0D", "\n": "%0A"})
_IN_PROPERTIES: Mapping[str, str] = MappingProxyType({**_IN_TEXT, ":": "%3A", ",": "%2C"})


def _escape(text: str, escapes: Mapping[str, str]) -> str:
    return "".join(escapes.get(character, character) for character in text)


def _what(finding: Finding) -> str:
    return f"{finding.key}: {finding.message}" if finding.key else finding.message


def _warning(table: RoutingTable, file: str, remark: Remark) -> Finding:
    place = place_of(table, remark.path)
    line, column = (place.line, place.column) if place else (0, 0)
    key, message = _clean(dotted(remark.path)), _clean(remark.message)
    return Finding(WARNING, place.file if place else file, line, column, key, message)


def _clean(text: str) -> str:
    return printable(redacted(text))

"""Find the cause of a crash in a log. Pure."""

from __future__ import annotations

import re

MAX_LENGTH = 240
"""Characters."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"^(\([\w ]+ pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] )?"
)
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<kind>[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?:: (?P<text>.*))?$")
_USAGE = re.compile(r"^[\w./ -]+: error: (?P<text>.+)$")
_VALUE = re.compile(r"^\s+(?:Value error|Assertion failed), (?P<text>.+?)(?: \[type=.*)?$")
_CONSEQUENCES = re.compile(
    r"Engine core initialization failed|EngineCore encountered an issue|EngineDeadError|WorkerProc initialization"
    r"|CancelledError|SystemExit|KeyboardInterrupt|BrokenPipeError|EOFError|leaked .* objects"
)
"""Follow-on errors of other processes, which do not name the cause."""


def crash_reason(log: str) -> str:
    """Return the last error that is not a follow-on error, else the last line, else ""."""
    lines = [_PREFIX.sub("", _COLOUR.sub("", line)).rstrip() for line in log.splitlines()]
    errors = [text for number, line in enumerate(lines) if (text := _error(line, lines[number + 1 :]))]
    causes = [error for error in errors if not _CONSEQUENCES.search(error)]
    nonblank = [line.strip() for line in lines if line.strip()]
    return _short((causes or errors or nonblank or [""])[-1])


def _error(line: str, following: list[str]) -> str:
    if usage := _USAGE.match(line):
        return usage["text"]
    raised = _RAISED.match(line)
    if not raised:
        return ""
    text = raised["text"] or ""
    if raised["kind"] == "ValidationError":
        details = [value["text"] for line in following[:4] if (value := _VALUE.match(line))]
        return details[0] if details else text
    return f"{raised['kind']}: {text}" if text else raised["kind"]


def _short(line: str) -> str:
    return line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 1].rstrip() + "…"

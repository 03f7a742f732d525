"""Durations as Go writes and reads them, and Ollama's `keep_alive` (R092). All in nanoseconds."""

from __future__ import annotations

import re
from typing import Any

from vllama_pool.router.errors import BadRequest

SECOND = 1_000_000_000
FOREVER = 2**63 - 1
"""What Ollama makes of a negative keep-alive: about 292 years."""

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")


def parse_duration(text: str) -> int:
    """Go's time.ParseDuration. Raises ValueError with Go's own text."""
    quoted = _quoted(text)
    invalid = ValueError(f"time: invalid duration {quoted}")
    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise invalid
        whole, fraction, unit = part.group(1), part.group(2) or "", part.group(3)
        if not whole and fraction in ("", "."):
            raise invalid
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {quoted}")
        scale = _UNITS[unit]
        if len(whole) > 19:
            raise invalid
        total += int(whole or "0") * scale
        digits = fraction[1:19]
        if digits:
            total += int(digits) * scale // 10 ** len(digits)
        if total > FOREVER:
            raise invalid
        rest = rest[part.end() :]
    return sign * total


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def keep_alive(value: Any) -> int | None:
    """A request's `keep_alive`: None where absent, FOREVER where negative, else nanoseconds.

    Raises BadRequest with Ollama's text.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise BadRequest("Unsupported type: 'bool'")
    if isinstance(value, (int, float)):
        return FOREVER if value < 0 or value >= FOREVER / SECOND else int(value * SECOND)
    if isinstance(value, str):
        try:
            parsed = parse_duration(value)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return FOREVER if parsed < 0 else parsed
    kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
    raise BadRequest(f"Unsupported type: '{kind}'")

"""Durations as Go writes them, such as "1h30m" or "500ms"."""

from __future__ import annotations

import math
import re

SECOND = 1_000_000_000
FOREVER = 2**63 - 1
"""Go's longest duration in nanoseconds, about 292 years."""

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
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([^\d.]*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)\Z", re.ASCII)


def seconds(text: str) -> float:
    """Parse seconds or a Go duration; may be negative. Raises ValueError."""
    if _NUMBER.match(text) and math.isfinite(number := float(text)):
        return number
    try:
        return nanoseconds(text) / SECOND
    except ValueError:
        raise ValueError(
            f"'{text[:40]}' is not a duration; write seconds, or a duration such as 30s, 5m or 1h30m"
        ) from None


def nanoseconds(text: str) -> int:
    """Parse as Go's time.ParseDuration. Raises ValueError with Go's text."""
    quoted = _quoted(text)
    negative = text.startswith("-")
    rest = text[1:] if text.startswith(("-", "+")) else text
    if rest == "0":
        return 0
    total = 0
    position = 0
    while position < len(rest) or not rest:
        part = _PART.match(rest, position)
        if part is None:
            raise ValueError(f"time: invalid duration {quoted}")
        number, unit = part.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {_quoted(unit)} in duration {quoted}")
        total += _scaled(number, _UNITS[unit])
        if total > FOREVER:
            raise ValueError(f"time: invalid duration {quoted}")
        position = part.end()
    return -total if negative else total


def _scaled(number: str, unit: int) -> int:
    """Multiply exactly. A number of more than 19 digits exceeds Go's range."""
    whole, _, fraction = number.partition(".")
    if len(whole) > 19:
        return FOREVER + 1
    fraction = fraction[:18]
    scale: int = 10 ** len(fraction)
    return int(whole or "0") * unit + int(fraction or "0") * unit // scale


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

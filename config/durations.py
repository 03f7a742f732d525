"""Durations in settings: "90", "1.5", "5m", "1h30m", "500ms", as seconds."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"([+-]?)((?:{_PART.pattern})+)\Z", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)\Z", re.ASCII)


def seconds(text: str) -> float:
    """A number of seconds, or a duration as Go writes it. May be negative. Raises ValueError."""
    if _NUMBER.match(text):
        return float(text)
    whole = _WHOLE.match(text)
    if whole is None:
        raise ValueError(f"'{text[:40]}' is no duration; write seconds or such as 30s, 5m, 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(whole.group(2)))
    return -total if whole.group(1) == "-" else total

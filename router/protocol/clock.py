"""The system's clock, and RFC 3339."""

from __future__ import annotations

import time
from typing import Final

_SECOND: Final = 1_000_000_000


class SystemClock:
    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


def rfc3339(unix_ns: int) -> str:
    """UTC, up to nine fractional digits, no trailing zeros (R041)."""
    seconds, fraction = divmod(unix_ns, _SECOND)
    text = _to_the_second(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class TimestampFormatter:
    """`rfc3339` that formats the seconds only once per second. Streams and threads may share one."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest = ("-", "")
        """Unix seconds, and the text. One value, because other threads may read it meanwhile."""

    def format(self, unix_ns: int) -> str:
        number = str(unix_ns)
        second, prefix = self._latest
        if number[:-9] != second:
            if unix_ns < _SECOND:
                return rfc3339(unix_ns)
            second = number[:-9]
            prefix = _to_the_second(int(second))
            self._latest = second, prefix
        digits = number[-9:]
        return f"{prefix}.{digits}Z" if digits[-1] != "0" else _without_zeros(prefix, digits)


def _without_zeros(prefix: str, digits: str) -> str:
    fraction = digits.rstrip("0")
    return f"{prefix}.{fraction}Z" if fraction else f"{prefix}Z"

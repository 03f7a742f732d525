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

    __slots__ = ("_second",)

    def __init__(self) -> None:
        self._second = (0, 0, "")
        """Begin and end in Unix nanoseconds, and the text. One value, because other threads may read it meanwhile."""

    def format(self, unix_ns: int) -> str:
        start, end, prefix = self._second
        if not start <= unix_ns < end:
            second = unix_ns // _SECOND
            prefix = _to_the_second(second)
            self._second = (second * _SECOND, (second + 1) * _SECOND, prefix)
        digits = str(unix_ns)[-9:]
        if digits[-1] == "0" or unix_ns < _SECOND:  # trailing zeros, or too few digits
            return rfc3339(unix_ns) if unix_ns < _SECOND else _without_zeros(prefix, digits)
        return f"{prefix}.{digits}Z"


def _without_zeros(prefix: str, digits: str) -> str:
    fraction = digits.rstrip("0")
    return f"{prefix}.{fraction}Z" if fraction else f"{prefix}Z"

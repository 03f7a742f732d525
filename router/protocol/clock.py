"""Time for the wire: RFC 3339 stamps, and the system's clock for whoever does not bring another."""

from __future__ import annotations

import time


class SystemClock:
    """The process's own clocks."""

    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


def rfc3339(unix_ns: int) -> str:
    """UTC with up to nine fractional digits, trailing zeros trimmed (R041)."""
    seconds, fraction = divmod(unix_ns, 1_000_000_000)
    return _with_fraction(_second(seconds), fraction)


def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _with_fraction(second: str, fraction: int) -> str:
    if fraction % 10:  # nothing to trim
        return f"{second}.{fraction:09d}Z"
    if fraction:
        return f"{second}.{fraction:09d}".rstrip("0") + "Z"
    return second + "Z"


class TimestampFormatter:
    """`rfc3339` for a run of near moments: the part up to the second is formatted once per second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = ""
        self._text = ""

    def __call__(self, unix_ns: int) -> str:
        digits = str(unix_ns)
        second = digits[:-9]
        if digits[-1] == "0" or not second:  # zeros to trim, or the first second of 1970
            return rfc3339(unix_ns)
        if second != self._second:
            self._second = second
            self._text = _second(int(second)) + "."
        return self._text + digits[-9:] + "Z"

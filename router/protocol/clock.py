"""The system's clock, and RFC 3339."""

from __future__ import annotations

import time


class SystemClock:
    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


def rfc3339(unix_ns: int) -> str:
    """UTC, up to nine fractional digits, no trailing zeros (R041)."""
    seconds, fraction = divmod(unix_ns, 1_000_000_000)
    text = _to_the_second(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class TimestampFormatter:
    """`rfc3339` that formats the seconds only once per second."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = ""
        self._prefix = ""

    def __call__(self, unix_ns: int) -> str:
        digits = str(unix_ns)
        second = digits[:-9]
        if digits[-1] == "0" or not second:  # trailing zeros, or the first second of 1970
            return rfc3339(unix_ns)
        if second != self._second:
            self._second = second
            self._prefix = _to_the_second(int(second)) + "."
        return self._prefix + digits[-9:] + "Z"

"""Warnings about conditions that are met again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

MAX_KEYS = 1024
REPEAT_AFTER = 300.0
"""Seconds."""


class LogOnce:
    """Logs a warning when the reason for a key changes. Starts over after MAX_KEYS reasons."""

    def __init__(self, logger: logging.Logger, message: str) -> None:
        """`message` is a %-format of key and reason."""
        self._logger = logger
        self._message = message
        self._reasons: dict[str, str] = {}

    def warn(self, key: str, reason: str) -> bool:
        """Return True if the warning was logged."""
        if self._reasons.get(key) == reason:
            return False
        if len(self._reasons) >= MAX_KEYS:
            self._reasons.clear()
        self._reasons[key] = reason
        self._logger.warning(self._message, key[:200], reason)
        return True

    def forget(self, key: str) -> None:
        self._reasons.pop(key, None)

    def keep(self, keys: Container[str]) -> None:
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in keys}


class RepeatedWarning:
    """Logs a warning again only after REPEAT_AFTER, so that a worker that comes and goes does not fill the log."""

    def __init__(self, logger: logging.Logger, message: str, clock: Callable[[], float]) -> None:
        """`message` is a %-format of key and reason. `clock` returns monotonic seconds."""
        self._logger = logger
        self._message = message
        self._clock = clock
        self._logged_at: dict[tuple[str, str], float] = {}

    def warn(self, key: str, reason: str) -> None:
        now = self._clock()
        if now - self._logged_at.get((key, reason), float("-inf")) < REPEAT_AFTER:
            return
        if len(self._logged_at) >= MAX_KEYS:
            self._logged_at.clear()
        self._logged_at[key, reason] = now
        self._logger.warning(self._message, key[:200], reason)

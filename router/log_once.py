"""Warnings about registry entries, which are read again with every poll."""

from __future__ import annotations

import logging
from collections.abc import Container

MAX_KEYS = 1024


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

"""Ollama's `keep_alive`."""

from __future__ import annotations

from typing import Any

from vllama_pool.config.durations import FOREVER, SECOND, nanoseconds


class KeepAlive(int):
    """Nanoseconds; FOREVER if negative (R092)."""

    @classmethod
    def parse(cls, value: Any) -> KeepAlive:
        """Parse seconds or a Go duration. Raises ValueError with Ollama's text."""
        if isinstance(value, bool):
            raise ValueError("Unsupported type: 'bool'")
        if isinstance(value, (int, float)):
            return cls(FOREVER if value < 0 or value >= FOREVER / SECOND else int(value * SECOND))
        if isinstance(value, str):
            duration = nanoseconds(value)
            return cls(FOREVER if duration < 0 else duration)
        kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
        raise ValueError(f"Unsupported type: '{kind}'")


def dec_hook(kind: type, value: Any) -> Any:
    if kind is KeepAlive:
        return KeepAlive.parse(value)
    raise NotImplementedError(kind)

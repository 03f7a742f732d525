"""`expires_at` of /api/ps (R093), in Unix nanoseconds. Models stay loaded regardless."""

from __future__ import annotations

from vllama_pool.config.durations import FOREVER, SECOND

OLLAMA_DEFAULT = 300 * SECOND
"""Replaces a default of 0."""
MAX_MODELS = 4096
"""Bounds memory: clients choose the names of virtual models."""


class ExpiryTracker:
    """Remembers each model's last request. `keep_alive` counts from the request's end."""

    def __init__(self, default: int) -> None:
        """`default`: nanoseconds; FOREVER or negative for no end."""
        self._default = default if default >= 0 else FOREVER
        self._models: dict[str, tuple[int, int]] = {}

    def touch(self, model: str, keep_alive: int | None, now: int) -> None:
        self._models.pop(model, None)
        self._models[model] = (now, self._default if keep_alive is None else keep_alive)
        if len(self._models) > MAX_MODELS:
            del self._models[next(iter(self._models))]

    def lives(self, model: str, now: int) -> bool:
        ended, lifetime = self._models.get(model, (now, 0))
        return ended + lifetime > now

    def expires(self, model: str, now: int) -> int:
        """An expired model counts as just loaded, because clients show a past time as stopping."""
        ended, lifetime = self._models.get(model, (now, self._default))
        if ended + lifetime <= now:
            ended, lifetime = now, self._default or OLLAMA_DEFAULT
        return ended + lifetime

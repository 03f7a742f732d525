"""When models would be unloaded: what /api/ps shows as `expires_at` (R093).

Nothing is ever unloaded for it. Time is passed in, as Unix nanoseconds.
"""

from __future__ import annotations

from vllama_pool.router.protocol.ollama.durations import FOREVER, SECOND

RELOADED = 300 * SECOND
"""Where the default is to unload at once, and nothing ever is: what Ollama's own default would show."""
REMEMBERED = 4096
"""Models whose latest request is remembered: the names of virtual ones are clients' to invent."""


class ExpiryTracker:
    """The last request for a model says how long it stays; the time counts from that request's end."""

    def __init__(self, default: int) -> None:
        """`default`: nanoseconds for requests without a keep_alive; FOREVER or negative for no end."""
        self._default = default if default >= 0 else FOREVER
        self._models: dict[str, tuple[int, int]] = {}

    def touch(self, model: str, keep_alive: int | None, now: int) -> None:
        """A request for a model has ended. `keep_alive` as `durations.keep_alive` gives it."""
        self._models.pop(model, None)
        self._models[model] = (now, self._default if keep_alive is None else keep_alive)
        if len(self._models) > REMEMBERED:
            del self._models[next(iter(self._models))]

    def lives(self, model: str, now: int) -> bool:
        """Whether it was asked for, and its time is not over yet."""
        ended, lifetime = self._models.get(model, (now, 0))
        return ended + lifetime > now

    def expires(self, model: str, now: int) -> int:
        """Never in the past, which clients show as stopping: a model that outlived its time is still there,
        as if it had just been loaded."""
        ended, lifetime = self._models.get(model, (now, self._default))
        if ended + lifetime <= now:
            ended, lifetime = now, self._default or RELOADED
        return ended + lifetime

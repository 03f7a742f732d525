"""`expires_at` of /api/ps (R093), in Unix nanoseconds. Models stay loaded regardless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from vllama_pool.config.durations import FOREVER, SECOND

OLLAMA_DEFAULT = 300 * SECOND
"""Replaces a default of 0."""
MAX_MODELS = 4096
"""Bounds memory: clients choose the names of virtual models."""


class LastUse(msgspec.Struct, frozen=True, array_like=True):
    at: int
    """Monotonic nanoseconds. They order the uses in all processes of a machine, also after its clock was set."""
    ended: int
    """Unix nanoseconds."""
    lifetime: int
    """Nanoseconds from the end on."""
    set_at: int = 0
    """Monotonic nanoseconds of the `keep_alive` that set the lifetime, or that the model has outlived; 0 for none."""

    @property
    def lapses_at(self) -> int:
        """Monotonic nanoseconds."""
        return self.at + self.lifetime


class ModelUses(msgspec.Struct, frozen=True, array_like=True):
    """The uses that one router process knows."""

    last: dict[str, LastUse]
    running: tuple[str, ...] = ()
    """Models with a request in progress."""


class ExpiryTracker:
    """Remembers each model's last request.

    A `keep_alive` applies from the request's start, and stays until another one or until the model lapses. It counts
    from the end of the last request.
    """

    def __init__(self, default: int) -> None:
        """`default`: nanoseconds; FOREVER or negative for no end."""
        self._default = default if default >= 0 else FOREVER
        self._models: dict[str, LastUse] = {}
        self._running: dict[str, int] = {}
        self._running_elsewhere: frozenset[str] = frozenset()

    def begin(self, model: str, keep_alive: int | None, at: int, now: int) -> RunningUse:
        """Count a request that generates. The model is loaded until its end at least."""
        self.touch(model, keep_alive, at, now)
        self._running[model] = self._running.get(model, 0) + 1
        return RunningUse(self, model)

    def touch(self, model: str, keep_alive: int | None, at: int, now: int) -> None:
        """Note a use. `at`: monotonic, `now`: Unix nanoseconds."""
        if keep_alive is not None:
            self._note(model, LastUse(at, now, int(keep_alive), at))
            return
        known = self._models.get(model)
        lifetime = known.lifetime if known is not None and self.lives(model, now) else self._default
        self._note(model, LastUse(at, now, lifetime, known.set_at if known is not None else 0))

    def uses(self) -> ModelUses:
        return ModelUses(self._models, tuple(self._running))

    def learn(self, others: Iterable[ModelUses]) -> None:
        """Take over the later uses in other processes, and what runs there now."""
        running: set[str] = set()
        for uses in others:
            running.update(uses.running)
            self._note_later(uses.last)
        self._running_elsewhere = frozenset(running)

    def lives(self, model: str, now: int) -> bool:
        if model in self._running or model in self._running_elsewhere:
            return True
        use = self._models.get(model)
        return use is not None and use.ended + use.lifetime > now

    def expires(self, model: str, now: int) -> int:
        """An expired model counts as just loaded, because clients show a past time as stopping."""
        use = self._models.get(model)
        ended, lifetime = (use.ended, use.lifetime) if use else (now, self._default)
        if ended + lifetime <= now:
            ended, lifetime = now, self._default or OLLAMA_DEFAULT
        return ended + lifetime

    def _note_later(self, uses: Mapping[str, LastUse]) -> None:
        for model, use in uses.items():
            known = self._models.get(model)
            later = use if known is None else self._later(known, use)
            if later is not known:
                self._note(model, later)

    def _later(self, one: LastUse, other: LastUse) -> LastUse:
        """Return the later use, with the later `keep_alive` unless the model had lapsed in between."""
        early, late = (one, other) if one.at < other.at else (other, one)
        if early.set_at <= late.set_at:
            return late
        lifetime = early.lifetime if late.at < early.lapses_at else self._default
        return LastUse(late.at, late.ended, lifetime, early.set_at)

    def _note(self, model: str, use: LastUse) -> None:
        self._models.pop(model, None)
        self._models[model] = use
        if len(self._models) > MAX_MODELS:
            del self._models[next(iter(self._models))]

    def _stop(self, model: str) -> None:
        self._running[model] -= 1
        if not self._running[model]:
            del self._running[model]


class RunningUse:
    """One request in progress."""

    __slots__ = ("_model", "_running", "_tracker")

    def __init__(self, tracker: ExpiryTracker, model: str) -> None:
        self._tracker = tracker
        self._model = model
        self._running = True

    def end(self, at: int, now: int) -> None:
        """Only the first call counts. `at`: monotonic, `now`: Unix nanoseconds."""
        if self._running:
            self._running = False
            self._tracker.touch(self._model, None, at, now)
            self._tracker._stop(self._model)

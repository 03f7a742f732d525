"""When models expire for /api/ps (R093). Models stay loaded regardless.

All times are monotonic nanoseconds, which all processes of a machine share: a clock that is set moves no expiry. The
shown time takes its difference to Unix time from the request, so that all processes show the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from vllama_pool.config.durations import FOREVER, SECOND

OLLAMA_DEFAULT = 300 * SECOND
"""Replaces a default of 0."""
MAX_MODELS = 4096
"""Bounds memory: clients choose the names of virtual models. Models with a request in progress may add to them."""
FORGOTTEN_AT_ONCE = 256


class LastUse(msgspec.Struct, frozen=True, array_like=True):
    at: int
    """Its begin, or its end."""
    lifetime: int
    """Nanoseconds from the end on."""
    offset: int = 0
    """From monotonic to Unix time, at the begin."""
    set_at: int = 0
    """Time of the `keep_alive` that set the lifetime, or that the model has outlived; 0 for none."""

    @property
    def lapses_at(self) -> int:
        return self.at + self.lifetime


class ModelUses(msgspec.Struct, frozen=True, array_like=True):
    """The uses that one router process knows."""

    last: dict[str, LastUse]
    running: tuple[str, ...] = ()
    """Models with a request in progress."""


class _Model:
    """A model's last use, and its requests in progress. The fields are those of LastUse."""

    __slots__ = ("at", "lifetime", "offset", "running", "set_at")

    def __init__(self, use: LastUse) -> None:
        self.running = 0
        self.set(use)

    def set(self, use: LastUse) -> None:
        self.at, self.lifetime, self.offset, self.set_at = use.at, use.lifetime, use.offset, use.set_at

    def last_use(self) -> LastUse:
        return LastUse(self.at, self.lifetime, self.offset, self.set_at)


class ExpiryTracker:
    """Remembers each model's last request.

    A `keep_alive` applies from the request's start, and stays until another one or until the model lapses. It counts
    from the end of the last request.
    """

    def __init__(self, default: int) -> None:
        """`default`: nanoseconds; FOREVER or negative for no end."""
        self._default = default if default >= 0 else FOREVER
        self._models: dict[str, _Model] = {}
        self._running_elsewhere: frozenset[str] = frozenset()

    def begin(self, model: str, keep_alive: int | None, at: int, now: int) -> RunningUse:
        """Count a request that generates. The model is loaded until its end at least. `now`: Unix nanoseconds."""
        used = self._models.get(model)
        if used is None:
            used = self._add(model, LastUse(at, self._default))
        if keep_alive is not None:
            used.lifetime, used.set_at = int(keep_alive), at
        elif not used.running and used.at + used.lifetime <= at and model not in self._running_elsewhere:
            used.lifetime = self._default
        used.at, used.offset = at, now - at
        used.running += 1
        return RunningUse(used)

    def uses(self) -> ModelUses:
        models = self._models.items()
        return ModelUses(
            {name: model.last_use() for name, model in models}, tuple(name for name, model in models if model.running)
        )

    def learn(self, others: Iterable[ModelUses]) -> None:
        """Take over the later uses in other processes, and what runs there now."""
        running: set[str] = set()
        for uses in others:
            running.update(uses.running)
            for name, use in uses.last.items():
                if (known := self._models.get(name)) is None:
                    self._add(name, use)
                else:
                    known.set(self._later(known.last_use(), use))
        self._running_elsewhere = frozenset(running)

    def lives(self, model: str, now: int) -> bool:
        use = self._models.get(model)
        if model in self._running_elsewhere or (use is not None and use.running):
            return True
        return use is not None and use.at + use.lifetime > now

    def expires(self, model: str, now: int, offset: int) -> int:
        """Return Unix nanoseconds. `offset`: from monotonic to Unix time.

        An expired model counts as just loaded, because clients show a past time as stopping.
        """
        use = self._models.get(model)
        if use is None or use.at + use.lifetime <= now:
            return now + offset + (self._default or OLLAMA_DEFAULT)
        was_set = abs(offset - use.offset) > SECOND
        return use.at + use.lifetime + (offset if was_set else use.offset)

    def _later(self, one: LastUse, other: LastUse) -> LastUse:
        """Return the later use, with the later `keep_alive` unless the model had lapsed in between."""
        early, late = (one, other) if one.at < other.at else (other, one)
        if early.set_at <= late.set_at:
            return late
        lifetime = early.lifetime if late.at < early.lapses_at else self._default
        return LastUse(late.at, lifetime, late.offset, early.set_at)

    def _add(self, name: str, use: LastUse) -> _Model:
        if len(self._models) >= MAX_MODELS:
            self._forget_oldest()
        model = self._models[name] = _Model(use)
        return model

    def _forget_oldest(self) -> None:
        """Forget several models at once, since this looks at all of them."""
        idle = ((name, model) for name, model in self._models.items() if not model.running)
        for name, _ in heapq.nsmallest(FORGOTTEN_AT_ONCE, idle, key=lambda item: item[1].at):
            del self._models[name]


class RunningUse(msgspec.Struct, gc=False):
    """One request in progress."""

    model: _Model | None
    """None after its end."""

    def end(self, at: int) -> None:
        """Only the first call counts."""
        model = self.model
        if model is not None:
            self.model = None
            model.at = at
            model.running -= 1

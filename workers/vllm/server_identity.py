"""Tells a restarted server from several servers behind one address, by a sequence of observations. Pure.

One server keeps its start time, and its counters never fall. A restart changes the start time once and for good.
Behind a load balancer, a start time comes back after another one was seen, or it changes (or the counters fall) again
and again without an interruption, in which no vLLM can restart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

CONFIRM = 10
"""Observations after a change without another one that make it a restart."""
MEMORY = 120
"""Observations without an interruption within which a second change shows several servers."""
TURNOVER = 64
"""Changes between several servers without any of the first ones that show that all of them were replaced."""
SETTLED = 600
"""Observations without a change after which several servers count as one again."""
MAX_KNOWN = 1024
SAME_COUNTER = 1000
"""Tokens from which a counter that has not fallen shows the same server after an interruption."""
SEVERAL_SERVERS = (
    "several servers seem to stand behind this address, so its load is that of one of them and its speed is unknown; "
    "list each server by its own URL"
)


@dataclass(frozen=True, slots=True)
class Observation:
    started: float | None
    """Start time of the process; None if the server does not tell, as with several API servers."""
    tokens: int
    """A counter that begins at 0 with each start."""


class Sighting(enum.Enum):
    SAME = "same"
    """The server of the previous observation."""
    CHANGED = "changed"
    """Another server, or the same one after a restart."""
    RESTARTED = "restarted"
    """The server was restarted or replaced."""
    SEVERAL = "several"
    """One of several servers."""


class ServerIdentity:
    """Follows the servers behind one address. Call `observe` for each answer, and `interrupt` when it is down."""

    def __init__(self) -> None:
        self.several = False
        self._count = 0
        self._known: dict[float, tuple[int, int]] = {}
        """By start time, the latest seen last: the number of changes at its first and its last observation."""
        self._last: Observation | None = None
        self._interrupted = False
        self._changed_at: int | None = None
        self._unconfirmed: int | None = None
        """Observations since a change that may be a restart."""
        self._suspected = False
        """True if an interruption ended them early."""
        self._steady = 0
        """Observations since the last change."""
        self._changes = 0
        self._first_until = 0
        """Number of changes up to which servers are the first ones."""

    def __repr__(self) -> str:
        return f"<ServerIdentity {'several' if self.several else 'one'}, {len(self._known)} start times>"

    @property
    def certain(self) -> bool:
        """True if the counters of the latest two observations belong to one server."""
        return not self.several and self._unconfirmed is None and not self._interrupted and self._steady > 0

    @property
    def unconfirmed(self) -> bool:
        """True while a change may be a restart.

        Then observe twice in a row: a balancer gives one of two requests always to the same one of two servers.
        """
        return self._unconfirmed is not None

    def is_known(self, seen: Observation) -> bool:
        """True if it is a server that was observed before, and not restarted since."""
        if seen.started is not None:
            return seen.started in self._known
        last = self._last
        return last is not None and last.started is None and SAME_COUNTER <= last.tokens <= seen.tokens

    def interrupt(self) -> None:
        """The address gave no answer for a while, in which its server may have restarted."""
        if self._last is not None:
            self._interrupted = True
        self._suspected = self._suspected or self._unconfirmed is not None
        self._changed_at = self._unconfirmed = None

    def mark_several(self) -> None:
        """Something else has shown several servers, such as models that come and go."""
        self._unconfirmed, self._suspected, self._steady = None, False, 0
        if not self.several:
            self.several, self._first_until = True, self._changes + TURNOVER

    def observe(self, seen: Observation) -> Sighting:
        self._count += 1
        known = self.is_known(seen)
        interrupted, self._interrupted = self._interrupted, False
        changed = self._differs(seen)
        self._steady = 0 if changed or self._last is None else self._steady + 1
        self._changes += changed
        self._remember(seen)
        if interrupted and (self._suspected or not known):
            self._suspected = False
            self._first_until = self._changes
            return Sighting.RESTARTED
        if self.several:
            return self._one_of_several()
        if not changed:
            return self._unchanged()
        return self._changed(known and seen.started is not None)

    def _differs(self, seen: Observation) -> bool:
        last = self._last
        return last is not None and (seen.started != last.started or seen.tokens < last.tokens)

    def _remember(self, seen: Observation) -> None:
        self._last = seen
        if seen.started is not None:
            first, _ = self._known.pop(seen.started, (self._changes, 0))
            self._known[seen.started] = first, self._changes
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]

    def _unchanged(self) -> Sighting:
        if self._unconfirmed is None:
            return Sighting.SAME
        self._unconfirmed += 1
        if self._unconfirmed < CONFIRM:
            return Sighting.SAME
        self._unconfirmed = None
        return Sighting.RESTARTED

    def _changed(self, returned: bool) -> Sighting:
        before, self._changed_at = self._changed_at, self._count
        if returned or (before is not None and self._count - before <= MEMORY):
            self.mark_several()
            return Sighting.SEVERAL
        self._unconfirmed = 0
        return Sighting.CHANGED

    def _one_of_several(self) -> Sighting:
        settled = self._steady >= SETTLED
        if settled:
            self.several, self._changed_at = False, None
        if not self._replaced(0 if settled else TURNOVER):
            return Sighting.SEVERAL
        self._first_until = self._changes
        return Sighting.RESTARTED

    def _replaced(self, changes: int) -> bool:
        """True if none of the first servers was seen during the latest changes."""
        begin = self._changes - changes
        first_ones = [last for first, last in self._known.values() if first <= self._first_until]
        return begin > self._first_until and bool(first_ones) and max(first_ones) < begin

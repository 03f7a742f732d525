"""The latest decisions of a router process: the route, attempts and sizes of each request. No prompts, no answers.

A request fills in its `Decision` while it is served, with references to what exists anyway. Texts are made only when
somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from vllama_pool.router.balance.group import Group
from vllama_pool.router.balance.policies.least_load import SAMPLE_SIZE
from vllama_pool.router.balance.score import rank
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.telemetry.request_record import RequestRecord


class Resolved(Protocol):
    """The resolution of a name, as far as decisions need it."""

    model: str
    """The canonical name: the entry's, or the served one."""
    virtual: str
    """The virtual model's name; "" for others."""

    @property
    def place(self) -> str:
        """FILE:LINE of the entry; "" for a served name without one."""

    @property
    def split(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def shares(self) -> Mapping[str, float]: ...


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The choice of a worker for one attempt."""

    worker: str
    """Its id."""
    candidates: int = 1
    """Their number."""
    compared: Sequence[Worker] = ()
    """The candidates, if they are few; else the chosen one. Empty for a single candidate."""
    ranks: Sequence[float] = ()
    """Their `rank` at that time, in the same order."""
    loads: Sequence[int] = ()
    """Their loads at that time, without the request."""


def choice_of(worker: Worker, groups: Sequence[Group], now: float) -> Choice:
    """Note the choice of a worker, before its request counts. Ranks and loads of few candidates take less than 1 us."""
    group = groups[0] if len(groups) == 1 else next((group for group in groups if worker in group), groups[0])
    candidates = group.candidates(now)
    count = len(candidates)
    if count <= 1:
        return Choice(worker.id)
    compared = candidates if count <= SAMPLE_SIZE else (worker,)
    ranks, loads = [rank(each, now) for each in compared], [each.in_flight + each.others_load for each in compared]
    return Choice(worker.id, count, compared, ranks, loads)


class Decision(msgspec.Struct, gc=False):
    """One request's, filled in while it is served."""

    record: RequestRecord
    arrived: int
    """Monotonic nanoseconds."""
    size: int
    """Bytes of the body."""
    resolution: Resolved | None = None
    """The first; None if the name is unknown or no worker is available."""
    identity: int = 0
    """Hash of the text that decides the request's side of a split; 0 without one."""
    choices: tuple[Choice, ...] = ()
    """One per attempt."""


class Decisions:
    """Keeps the latest decisions of this process. Older ones are forgotten."""

    def __init__(self, limit: int) -> None:
        """`limit` 0 keeps none."""
        self._latest: deque[Decision] = deque(maxlen=limit)
        self.add = self._latest.append
        """Takes a request's decision, which its owner fills in."""

    def __repr__(self) -> str:
        return f"<Decisions {len(self._latest)} of {self._latest.maxlen}>"

    def __len__(self) -> int:
        return len(self._latest)

    def __iter__(self) -> Iterator[Decision]:
        """Iterate over a copy, oldest first."""
        return iter(tuple(self._latest))

    @property
    def limit(self) -> int:
        return self._latest.maxlen or 0

    def find(self, request_id: str) -> Decision | None:
        """Return the latest decision on a request with this id."""
        return next((decision for decision in reversed(self._latest) if decision.record.id == request_id), None)

"""The order of waiting requests: first in, first out within a tenant, weighted fair among tenants.

Self-clocked fair queueing. Each tenant's first request has a virtual time at which it would end if the tenants were
served at once, at the rates of their weights. The earliest comes first, and its time becomes the present. A tenant that
has no request waiting is therefore never ahead of or behind the present, and is forgotten.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from vllama_pool.router.admission.tenant import Tenant

_SPARE = 16
"""Entries of forgotten tenants that are always kept."""

T = TypeVar("T", bound=Hashable)


class _Line(Generic[T]):
    """The waiting requests of one tenant; has one entry in the heap."""

    __slots__ = ("tenant", "waiting")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.waiting: OrderedDict[T, None] = OrderedDict()


class FairOrder(Generic[T]):
    """Adding and removing cost O(log n) for n tenants that wait.

    A changed weight counts from the tenant's next turn on. A tenant with weight w gets a turn after at most 1/w of
    virtual time, whoever else comes.
    """

    def __init__(self) -> None:
        self._now = 0.0
        """Virtual time."""
        self._added = 0
        self._lines: dict[tuple[str, str], _Line[T]] = {}
        self._line_of: dict[T, _Line[T]] = {}
        self._heap: list[tuple[float, int, _Line[T]]] = []
        """By virtual time, then in the order of entry. Those of forgotten tenants have nothing waiting."""

    def __len__(self) -> int:
        return len(self._line_of)

    def __contains__(self, item: object) -> bool:
        return item in self._line_of

    def __repr__(self) -> str:
        return f"<FairOrder of {len(self)} of {len(self._lines)} tenants>"

    def add(self, item: T, tenant: Tenant) -> None:
        """The item must not be in the order."""
        line = self._lines.get(tenant.id)
        if line is None:
            line = self._lines[tenant.id] = _Line(tenant)
            self._push(line)
        line.waiting[item] = None
        self._line_of[item] = line

    def remove(self, item: T) -> None:
        """Raises KeyError."""
        line = self._line_of.pop(item)
        del line.waiting[item]
        if not line.waiting:
            self._forget(line)

    @property
    def first(self) -> T:
        """The next item. Raises IndexError if there is none."""
        while not self._heap[0][2].waiting:
            heapq.heappop(self._heap)
        return next(iter(self._heap[0][2].waiting))

    def pop(self) -> T:
        """Remove and return the next item. Raises IndexError if there is none."""
        time, _, line = heapq.heappop(self._heap)
        while not line.waiting:
            time, _, line = heapq.heappop(self._heap)
        self._now = time
        item, _ = line.waiting.popitem(last=False)
        del self._line_of[item]
        if line.waiting:
            self._push(line)
        else:
            self._forget(line)
        return item

    def _push(self, line: _Line[T]) -> None:
        self._added += 1
        heapq.heappush(self._heap, (self._now + 1 / line.tenant.weight, self._added, line))

    def _forget(self, line: _Line[T]) -> None:
        del self._lines[line.tenant.id]
        if not self._lines:
            self._heap.clear()
            self._now = 0.0
        elif len(self._heap) > 2 * len(self._lines) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[2].waiting]
            heapq.heapify(self._heap)

"""Hashes that are the same in every process, and rendezvous hashing over workers.

Each pair of worker and key has a score, and a key's workers are ordered by it. A worker that leaves moves only its own
keys, and each to that key's next worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Protocol, TypeVar

_MASK = (1 << 64) - 1
_MIX, _FINISH = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
"""Odd multipliers."""


class Seeded(Protocol):
    @property
    def seed(self) -> int:
        """A stable hash of its name."""


SeededT = TypeVar("SeededT", bound=Seeded)
_seed = attrgetter("seed")


def stable_hash(text: str) -> int:
    """Return 64 bits, never 0."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1


def first_for(key: int, members: Sequence[SeededT]) -> SeededT:
    """Return the first member in the key's order."""
    scores = _scores(key, members)
    return members[scores.index(max(scores))]


def order_for(key: int, members: Sequence[SeededT]) -> list[SeededT]:
    """Return the members in the key's order."""
    scores = _scores(key, members)
    return [members[index] for index in sorted(range(len(members)), key=scores.__getitem__, reverse=True)]


def _scores(key: int, members: Sequence[Seeded]) -> list[int]:
    return [((mixed := (seed ^ key) * _MIX & _MASK) ^ mixed >> 32) * _FINISH & _MASK for seed in map(_seed, members)]

"""The order of weighted targets: drawn at random, or by a hash of the identity that keeps its side.

Each target draws an exponential time at the rate of its weight, and the earliest comes first. The draw of a target
depends on its own weight alone, so that a changed weight moves only the difference.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import Target

PER_REQUEST = "request"
"""The `split` without an identity."""
LAST = math.inf
_BITS = 53
_STEPS = 1 << _BITS


def identity_hash(identity: str) -> int:
    """Return 64 bits, the same in every process; 0 for no identity."""
    if not identity:
        return 0
    return int.from_bytes(blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1


def seeds_of(rule: str, targets: Iterable[Target]) -> tuple[bytes, ...]:
    """Return what tells the targets of all rules apart, whatever their order."""
    return tuple(_seed(rule, target) for target in targets)


def _seed(rule: str, target: Target) -> bytes:
    workers = target.workers.model_dump_json() if target.workers is not None else ""
    return blake2b("\n".join((rule, target.model, workers)).encode(), digest_size=16).digest()


def shares_of(weights: Sequence[float]) -> list[float]:
    """Return how often each target comes first. With weights of 0 only, the first target always does."""
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1.0, *(0.0 for _ in weights[1:])][: len(weights)]


def random_times(weights: Sequence[float], rng: random.Random) -> list[float]:
    return [rng.expovariate(weight) if weight else LAST for weight in weights]


def sticky_times(weights: Sequence[float], seeds: Sequence[bytes], identity: int) -> list[float]:
    """`identity`: an `identity_hash`, not 0."""
    key = identity.to_bytes(8, "big")
    return [_time(weight, seed, key) if weight else LAST for weight, seed in zip(weights, seeds, strict=True)]


def _time(weight: float, seed: bytes, key: bytes) -> float:
    drawn = int.from_bytes(blake2b(key, key=seed, digest_size=8).digest(), "big") >> (64 - _BITS)
    return -math.log((drawn + 0.5) / _STEPS) / weight

"""The refused requests of one router process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.errors import Poison
from vllama_pool.router.poison.news import Refused

MAX_REFUSED = 1000
"""Digests that are refused at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    evidence: str
    until: float
    """Monotonic seconds."""


class Refusals:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.by_digest: dict[str, Refusal] = {}
        self.count = 0
        """Refused requests so far."""
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Refusals of {len(self.by_digest)} requests>"

    def raise_if_refused(self, digest: str) -> None:
        """Raises Poison."""
        refusal = self.by_digest.get(digest)
        if refusal is not None:
            self.count += 1
            left = max(1, round((refusal.until - self._clock()) / 60))
            raise Poison(f"this request is refused for another {left} min: {refusal.evidence}")

    def add(self, refused: Refused) -> None:
        if refused.digest not in self.by_digest and len(self.by_digest) < MAX_REFUSED:
            self.by_digest[refused.digest] = Refusal(refused.evidence, self._clock() + refused.seconds)
            _log.warning(
                "request %s… is refused for %.0f s: %s", refused.digest[:12], refused.seconds, refused.evidence
            )

    def expire(self) -> list[str]:
        """Forget those whose time is over. Return their digests."""
        now = self._clock()
        expired = [digest for digest, refusal in self.by_digest.items() if refusal.until <= now]
        for digest in expired:
            del self.by_digest[digest]
        return expired

    def listed(self) -> list[tuple[str, str, float]]:
        """Return digest, evidence and remaining seconds of each."""
        now = self._clock()
        return [(digest, refusal.evidence, refusal.until - now) for digest, refusal in self.by_digest.items()]

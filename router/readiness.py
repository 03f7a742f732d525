"""Whether this router process takes new traffic, as `/readyz` tells load balancers. Each process owns one."""

from __future__ import annotations

DRAINING = "the router is draining"


class Readiness:
    """Running requests and new ones are served all the same: only load balancers act on it."""

    __slots__ = ("_draining", "_has_seen_fleet")

    def __init__(self) -> None:
        self._draining = ""
        self._has_seen_fleet = False

    def __repr__(self) -> str:
        return f"<Readiness {self._draining or 'open'}>"

    @property
    def draining(self) -> str:
        """Why the process drains; "" if it does not."""
        return self._draining

    def drain(self, reason: str = DRAINING) -> None:
        """Become not ready. Idempotent."""
        self._draining = reason

    def undrain(self) -> None:
        """Become ready again. Idempotent."""
        self._draining = ""

    def has_seen_fleet(self, now: bool) -> bool:
        """True once the process has read the registry or knows a worker; `now`: it does at present."""
        self._has_seen_fleet = self._has_seen_fleet or now
        return self._has_seen_fleet

"""The tenants that share the places of a queue."""

from __future__ import annotations


class Tenant:
    """A team, an API key without a team, or the address of anonymous clients."""

    __slots__ = ("id", "weight")

    def __init__(self, kind: str, name: str, weight: int = 1) -> None:
        """Tenants of the same kind and name are the same one. `weight`: 1 or more; a reload changes it."""
        self.id = kind, name
        self.weight = weight

    def __repr__(self) -> str:
        return f"<Tenant {' '.join(self.id)} with weight {self.weight}>"


ANYBODY = Tenant("", "")
"""Of requests that are told apart by nothing."""


def anonymous(address: str) -> Tenant:
    """Return the tenant of requests without an API key, from a client's address."""
    return Tenant("client", address)

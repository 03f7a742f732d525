"""Properties of a request that the choice of its worker may depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """Most requests share `PLAIN`: only some policies, and models of several context windows, need more."""

    key: int = 0
    """Hash of the identity, or of the start of the prompt, that keeps a worker; 0 for none."""
    prefixes: tuple[int, ...] = ()
    """Hashes of the prompt's prefixes at growing lengths."""
    at_least: int = 0
    """Tokens of context that the request certainly needs; 0 if unknown."""
    at_most: int = 0
    """Tokens of context that it hardly exceeds; 0 if unknown."""


PLAIN = Demand()

"""The checks, by what they are about."""

from __future__ import annotations

from router.compat.check import Check, declared
from router.compat.checks import routes

CHECKS: tuple[Check, ...] = tuple(check for module in (routes,) for check in declared(module))
"""All of them, in the order in which they run."""

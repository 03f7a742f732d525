"""What a model brings to requests that do not say it themselves.

The routing file sets options. A virtual model also has a system text and messages that come before a request's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Defaults:
    """Weaker than what the request says."""

    options: Mapping[str, Any] = field(default_factory=_nothing)
    """Sampling options under Ollama's names, already checked for type."""
    system: str = ""
    """Used where the request has no system text of its own (R052, R085)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """In the form of /api/chat, put before the request's (R085)."""


NONE = Defaults()
"""A model that brings nothing."""

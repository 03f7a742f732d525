"""A model's defaults for requests.

The routing file sets options. A virtual model also has a system text and messages.
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
    """Values that a request overrides."""

    options: Mapping[str, Any] = field(default_factory=_nothing)
    """Sampling options under Ollama's names, of checked types."""
    system: str = ""
    """Used if the request has no system text (R052, R085)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Messages in the form of /api/chat, put before the request's (R085)."""


NO_DEFAULTS = Defaults()
"""No defaults."""

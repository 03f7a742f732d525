"""A model's defaults for requests, from the routing file (all but the texts) or a virtual model (all)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Defaults:
    options: Mapping[str, Any] = field(default_factory=_nothing)
    """Validated sampling options under Ollama's names."""
    system: str = ""
    """Used if the request has no system text (R052, R085)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Messages of /api/chat, put before the request's (R085)."""
    stream_interval: int = 1
    """Tokens per event of a streamed answer."""
    templates_completions: bool = False
    """/v1/completions puts prompts into the chat template."""


NO_DEFAULTS = Defaults()

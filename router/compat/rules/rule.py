"""A rule of Ollama's API."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = (
    "routes",
    "requests and answers",
    "generate",
    "chat",
    "loading",
    "thinking",
    "embeddings",
    "pull and create",
    "catalogue",
    "/v1",
    "options",
    "errors",
    "names",
    "headers",
    "connections",
    "environment",
)
"""In display order."""


@dataclass(frozen=True, slots=True)
class Rule:
    number: int
    group: str
    title: str
    """At most 80 characters."""
    unobservable: str = ""
    """Reason why there is no check. A test marked `rule(number)` covers it."""
    not_implemented: str = ""
    """Reason."""

    @property
    def name(self) -> str:
        return f"R{self.number:03}"

    @property
    def has_checks(self) -> bool:
        return not self.unobservable and not self.not_implemented

    @property
    def group_order(self) -> int:
        return GROUPS.index(self.group)

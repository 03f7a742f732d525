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
    "environment",
)
"""Topics of rules, in display order."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    number: int
    group: str
    title: str
    """One line of at most 80 characters."""
    inside: str = ""
    """Reason why no request can observe it. Tests marked with its number prove it instead."""
    left_out: str = ""
    """Reason why it is not implemented."""

    @property
    def name(self) -> str:
        return f"R{self.number:03}"

    @property
    def outside(self) -> bool:
        """True if checks cover it."""
        return not self.inside and not self.left_out

    @property
    def group_order(self) -> int:
        return GROUPS.index(self.group)

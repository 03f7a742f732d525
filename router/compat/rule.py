"""What is known of a rule without asking any server."""

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
"""What rules are about, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the contract."""

    number: int
    group: str
    title: str
    """One line in our words, at most 80 characters."""
    inside: str = ""
    """Why no request can show it: tests of ours look at it from inside."""
    left_out: str = ""
    """Why we do not have it."""

    @property
    def name(self) -> str:
        return f"R{self.number:03}"

    @property
    def outside(self) -> bool:
        """Whether there are checks that see it from outside."""
        return not self.inside and not self.left_out

    @property
    def group_order(self) -> int:
        return GROUPS.index(self.group)

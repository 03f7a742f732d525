"""Which one of how many processes a router process is, as its supervisor tells it."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS = "VLLAMA_PROCESS"
"""The variable that tells a router process which one it is."""
LISTEN_FD = "VLLAMA_LISTEN_FD"
"""The variable that names the listening socket to a router process."""


@dataclass(frozen=True, slots=True)
class RouterInstance:
    """Which one of how many processes this is."""

    index: int = 0
    total: int = 1
    family: str = ""
    """Random; the same for all of them."""

    def __str__(self) -> str:
        return f"{self.index}/{self.total}/{self.family}"

    @classmethod
    def parse(cls, text: str) -> RouterInstance:
        """What `str` made. Raises ValueError for anything else."""
        index, total, family = text.split("/")
        return cls(int(index), int(total), family)

    def address(self, index: int) -> str:
        return f"\0vllama-{self.family}-{index}"

"""The identity of a router process, passed by the supervisor in the environment."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

PROCESS = "VLLAMA_PROCESS"
"""Variable with the `RouterInstance`."""
LISTEN_FD = "VLLAMA_LISTEN_FD"
"""Variable with the file descriptor of the listening socket."""


@dataclass(frozen=True, slots=True)
class RouterInstance:
    index: int = 0
    total: int = 1
    family: str = ""
    """Random id of one `vllama serve`."""
    restarted: bool = False
    """True if this process replaces an earlier one of the same index. Not a part of the text."""

    def __str__(self) -> str:
        return f"{self.index}/{self.total}/{self.family}"

    @classmethod
    def parse(cls, text: str, *, restarted: bool = False) -> RouterInstance:
        """Raises ValueError."""
        index, total, family = text.split("/")
        return cls(int(index), int(total), family, restarted)

    @classmethod
    def new_family(cls, total: int) -> list[RouterInstance]:
        family = secrets.token_hex(16)
        return [cls(index, total, family) for index in range(total)]

    def address(self, index: int) -> str:
        """Return a process's abstract Unix socket."""
        return f"\0vllama-{self.family}-{index}"

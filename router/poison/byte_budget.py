"""A limit on bytes that are kept."""

from __future__ import annotations


class ByteBudget:
    __slots__ = ("_left",)

    def __init__(self, limit: int) -> None:
        self._left = limit

    def __repr__(self) -> str:
        return f"<ByteBudget {self._left} left>"

    def take(self, size: int) -> bool:
        """Return False if the limit does not leave so many."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size

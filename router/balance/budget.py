"""The retry budget of one model: a token bucket that requests pay into."""

from __future__ import annotations


class Budget:
    """How many retries a model's requests may cause: a fifth of their number, and three to begin with.

    Every request pays in a fifth of a retry. What can be saved is a fifth of the requests in flight, or three if
    that is more. So if everything fails, workers see at most 1.2 attempts per request and three more, however
    long it lasts; and a burst of failures is met with no more retries than a fifth of what is running.
    """

    SHARE = 0.2
    FLOOR = 3.0

    def __init__(self) -> None:
        self.in_flight = 0
        self._saved = self.FLOOR

    def __repr__(self) -> str:
        return f"<Budget {self._saved:.1f} left, {self.in_flight} in flight>"

    @property
    def left(self) -> float:
        """Retries that may be made now; less than 1 is none."""
        return self._saved

    def enter(self) -> None:
        """A request begins."""
        self.in_flight += 1
        most = max(self.FLOOR, self.SHARE * self.in_flight)
        self._saved = min(self._saved + self.SHARE, most)

    def leave(self) -> None:
        """It is over. Call once for each `enter`."""
        self.in_flight -= 1
        self._saved = min(self._saved, max(self.FLOOR, self.SHARE * self.in_flight))

    def withdraw(self) -> bool:
        """Take one retry. False if there is none left."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

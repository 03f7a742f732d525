"""The retry budget of one model: a token bucket that requests pay into."""

from __future__ import annotations


class Budget:
    """A token bucket: each request adds 0.2 retries, up to 20 % of the requests in flight, but at least three.

    If every attempt fails, workers see at most 1.2 attempts per request, plus three.
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
        """Available retries; less than 1 means none."""
        return self._saved

    def enter(self) -> None:
        """Count a request in flight and add its share."""
        self.in_flight += 1
        most = max(self.FLOOR, self.SHARE * self.in_flight)
        self._saved = min(self._saved + self.SHARE, most)

    def leave(self) -> None:
        """End a request. Call once for each `enter`."""
        self.in_flight -= 1
        self._saved = min(self._saved, max(self.FLOOR, self.SHARE * self.in_flight))

    def withdraw(self) -> bool:
        """Spend one retry. Returns False if none is left."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

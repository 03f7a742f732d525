"""The client's side of a relay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ClientWriter(Protocol):
    """Writes one HTTP response. Nothing raises after a disconnect, which the server reports by a callback."""

    def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin the response. The head may leave with the first `write`."""

    def write(self, data: bytes, *, last: bool = False) -> bool:
        """Write body bytes. Return False if the client is behind: `drained` should be awaited before more is read."""

    async def drained(self) -> None:
        """Wait until the client has read enough for the next `write`, or is gone.

        Raises TimeoutError if the server dropped the client because it did not read.
        """

"""A transport without a socket, for connections under test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class FakeSocket:
    """Records its options."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))


class FakeTransport(asyncio.Transport):
    """Records what a protocol does with it. `unsent`: bytes that the kernel has not accepted yet."""

    def __init__(self) -> None:
        self.socket = FakeSocket()
        super().__init__({"socket": self.socket})
        self.written = bytearray()
        self.unsent = 0
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

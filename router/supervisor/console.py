"""What a person at the terminal sees of `vllama serve`: one line for each thing, as it happens."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TextIO

KIND_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Console:
    """Lines on `out`, errors on `err`. Plain text: it reads the same in a log file.

    What cannot be written, to a pipe that nobody reads any more or to a full disk, is lost: serving goes on.
    """

    out: TextIO
    err: TextIO

    def line(self, kind: str, name: str, text: str) -> None:
        """Say where one thing stands."""
        self._write(self.out, f"{kind:<{KIND_WIDTH}} {name}  {text}")

    def note(self, text: str) -> None:
        """Say something of the whole."""
        self._write(self.out, text)

    def error(self, text: str) -> None:
        """Say what is wrong and what to do, in one line."""
        self._write(self.err, f"vllama: {text}")

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        with contextlib.suppress(OSError):
            stream.write(text + "\n")
            stream.flush()

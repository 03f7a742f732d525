"""Terminal output of `vllama serve`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TextIO

from vllama_pool.config.redaction import redacted

KIND_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Console:
    """Ignores write errors (a closed pipe, a full disk), since serving goes on. Shows no passwords of addresses."""

    out: TextIO
    err: TextIO

    def line(self, kind: str, name: str, text: str) -> None:
        """Print the state of one registry, router or worker."""
        self._write(self.out, f"{kind:<{KIND_WIDTH}} {name}  {text}")

    def note(self, text: str) -> None:
        """Print a line about the whole pool."""
        self._write(self.out, text)

    def error(self, text: str) -> None:
        """Print one line: what is wrong and what to do."""
        self._write(self.err, f"vllama: {text}")

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        with contextlib.suppress(OSError):
            stream.write(redacted(text) + "\n")
            stream.flush()

"""The live routing table of a `vllama serve`, in memory that its router processes share.

A router process that restarts takes the table from here, because the file may be broken by then.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace

from vllama_pool.config.routing.table import RoutingTable

LAST_TABLE_FD = "VLLAMA_LAST_TABLE_FD"
"""Variable with the memory's file descriptor."""
_DIGEST = 32
"""Bytes, ahead of the table. Processes write without a lock, so a table may be half-written."""


def make_memory() -> int | None:
    """Return the descriptor of memory that ends with the last process that has it; None where there is none."""
    return os.memfd_create("vllama-routing-table") if sys.platform == "linux" else None


class LastTable:
    def __init__(self, descriptor: int | None = None) -> None:
        """Without a descriptor, nothing is kept."""
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> LastTable:
        text = environ.get(LAST_TABLE_FD)
        return cls(int(text) if text else None)

    def keep(self, table: RoutingTable) -> None:
        if self._descriptor is None:
            return
        data = pickle.dumps(replace(table, known={}), pickle.HIGHEST_PROTOCOL)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, hashlib.sha256(data).digest() + data, 0)

    def read(self) -> RoutingTable | None:
        """Return None before the first table. Only routers of the same `vllama serve` write it."""
        if self._descriptor is None:
            return None
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        digest, data = content[:_DIGEST], content[_DIGEST:]
        if not data or hashlib.sha256(data).digest() != digest:
            return None
        table = pickle.loads(data)
        return table if isinstance(table, RoutingTable) else None

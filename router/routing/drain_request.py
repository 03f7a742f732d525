"""Requests of `vllama drain` and `vllama undrain` to a router, and its answers. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import msgspec

from vllama_pool.config.printable import shortlist
from vllama_pool.config.routing.table import STATIC


class DrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /admin/drain`."""

    worker: str
    """Its id; of a static worker also its name in the routing file."""
    drain: bool = True


class DrainAnswer(msgspec.Struct, frozen=True):
    worker: str
    """Its id."""
    drain: bool
    changed: bool
    """False if it was so already."""


class UnknownWorker(msgspec.Struct, frozen=True):
    """The body of the 404."""

    error: str
    workers: tuple[str, ...]
    """Those that are known."""


def find_worker(name: str, known: Collection[str]) -> str | None:
    """Return the id of the worker with this id, or of the static worker with this name."""
    return next((each for each in (name, STATIC + name) if each in known), None)


def unknown_worker(name: str, known: Collection[str]) -> UnknownWorker:
    workers = sorted(known)
    near = difflib.get_close_matches(name, workers, n=1, cutoff=0.5)
    text = f"there is no worker {name[:128]!r}"
    if near:
        text += f"; did you mean {near[0]}?"
    text += f"{'' if near else ';'} known: {shortlist(workers)}" if workers else "; the router knows no worker"
    return UnknownWorker(text, tuple(workers))

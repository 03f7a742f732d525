"""Finds the objects that a piece of code leaves to Python's cycle collector."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from contextlib import contextmanager

OURS = "vllama_pool."


@contextmanager
def watch_garbage() -> Iterator[list[str]]:
    """Collect nothing within the context. After it, the list has the objects and frames of the router that nothing but
    the collector frees, each kind once.

    Things that are still referred to are not among them, so drop them before the end of the context.
    """
    found: list[str] = []
    enabled = gc.isenabled()
    gc.collect(1)  # what exists already becomes old
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect(0)
        found += sorted({name for thing in gc.garbage if (name := _name(thing)).startswith(OURS)})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if enabled:
            gc.enable()


def _name(thing: object) -> str:
    if isinstance(thing, types.FrameType):
        return f"{thing.f_globals.get('__name__', '')}.{thing.f_code.co_qualname} (frame)"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"

"""Sums of the lines that `python -X importtime` prints. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

_LINE = re.compile(r"^import time: +(\d+) \| +(\d+) \| ( *)(\S+)$", re.MULTILINE)
OWN = "vllama_pool"


def by_package(text: str) -> Counter[str]:
    """Return the microseconds of each package's modules, without what they import in turn.

    Our own packages are told apart by two names, others by one.
    """
    times: Counter[str] = Counter()
    for module, own, _ in _modules(text):
        times[_package(module)] += own
    return times


def outermost(text: str) -> Counter[str]:
    """Return the microseconds of the modules of other packages that ours import, with what they import in turn."""
    times: Counter[str] = Counter()
    parents: dict[int, str] = {}
    for module, depth, whole in reversed([(module, depth, whole) for module, (depth, whole) in _wholes(text)]):
        parents[depth] = module
        if not module.startswith(OWN) and parents.get(depth - 1, OWN).startswith(OWN):
            times[module] += whole
    return times


def total(text: str) -> int:
    return sum(own for _, own, _ in _modules(text))


def _modules(text: str) -> Iterator[tuple[str, int, int]]:
    for own, whole, _, module in _LINE.findall(text):
        yield module, int(own), int(whole)


def _wholes(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for _, whole, indent, module in _LINE.findall(text):
        yield module, (len(indent) // 2, int(whole))


def _package(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:3]) if parts[0] == OWN else parts[0]

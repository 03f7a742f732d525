"""Shares of CPU time by part of the program, from samples. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.report import short

LOOP = "uvloop, with its system calls"
SENDING = frozenset({"write", "writelines"})
"""Methods of a transport, which make a system call."""
_OWN = re.compile(r"/vllama_pool/(\w+/\w+?)(?:\.py|/)")
_LIBRARY = re.compile(r"/site-packages/(\w+)")
_STANDARD = re.compile(r"/lib/python[\d.]+/")


@dataclass(frozen=True, slots=True)
class Profile:
    """Of one contender."""

    name: str
    parts: Mapping[str, int]
    """Samples by part."""
    cost: float
    """Microseconds of CPU time per request or token."""
    kernel: float
    """Part of the CPU time that the kernel takes, whichever part of the program calls it."""

    def microseconds(self, part: str) -> float:
        return self.cost * self.parts.get(part, 0) / sum(self.parts.values())


def part(file: str, callee: str) -> str:
    """Return the part that a sample belongs to. "<event loop>" stands for code without Python frames."""
    if file == "<event loop>" or callee in SENDING:
        return LOOP
    if found := _OWN.search(file) or _LIBRARY.search(file):
        return found[1]
    return "standard library" if _STANDARD.search(file) or file.startswith("<") else "other"


def by_part(samples: Iterable[tuple[str, str, str, int]]) -> Counter[str]:
    """Return the samples of each part. C functions other than uvloop's count for the Python code that calls them."""
    counts: Counter[str] = Counter()
    for file, _, callee, count in samples:
        counts[part(file, callee)] += count
    return counts


def by_function(samples: Iterable[tuple[str, str, str, int]]) -> Counter[str]:
    """Return the samples of each function, and of each C function that it calls."""
    counts: Counter[str] = Counter()
    for file, function, callee, count in samples:
        called = f" > {callee}" if callee else ""
        counts[f"{_short(file)}:{function}{called}" if function else LOOP] += count
    return counts


def _short(file: str) -> str:
    return re.split(r"/vllama_pool/|/site-packages/|/lib/python[\d.]+/", file)[-1]


def largest(functions: Counter[str], cost: float, count: int) -> list[str]:
    """Return the functions that take the most time, with their microseconds."""
    every = sum(functions.values())
    return [f"{cost * samples / every:8.2f}  {name}" for name, samples in functions.most_common(count)]


def table(profiles: Sequence[Profile], unit: str, *, least: float = 0.005) -> str:
    """Return microseconds and shares of each part, largest first. Parts below `least` of the time are summed up."""
    first = profiles[0]
    parts = sorted({part for one in profiles for part in one.parts}, key=lambda each: -first.parts.get(each, 0))
    large = [each for each in parts if any(one.microseconds(each) >= least * one.cost for one in profiles)]
    rows = [["part", *(f"{one.name}, µs per {unit}" for one in profiles)], ["---"] * (1 + len(profiles))]
    rows += [[f"`{each}`" if "/" in each else each, *(_cell(one, [each]) for one in profiles)] for each in large]
    rest = [each for each in parts if each not in large]
    rows += [["the rest", *(_cell(one, rest) for one in profiles)]] if rest else []
    rows += [["all", *(short(one.cost) for one in profiles)]]
    rows += [["of which in the kernel", *(_value(one.cost * one.kernel, one.cost) for one in profiles)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(profile: Profile, parts: Sequence[str]) -> str:
    return _value(sum(map(profile.microseconds, parts)), profile.cost)


def _value(microseconds: float, of: float) -> str:
    return f"{short(microseconds)} ({microseconds / of:.0%})"

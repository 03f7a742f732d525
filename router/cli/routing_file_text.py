"""The routing file in the output of `vllama ps`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vllama_pool.router.telemetry.routing_file import FileProblem, RoutingFileState


def revision_lines(states: Mapping[str, RoutingFileState], now: float) -> Iterator[str]:
    """Yield the live revision, and the processes that have it if they differ. `now`: Unix seconds."""
    by_revision: dict[str, list[str]] = {}
    for name, state in states.items():
        by_revision.setdefault(state.revision, []).append(name)
    for revision, names in by_revision.items():
        state = states[names[0]]
        where = f" in {', '.join(names)}" if len(states) > 1 else ""
        age = max(0.0, now - max(states[name].loaded for name in names))
        yield f"routing file {state.file}: revision {revision}{where}, read {age_text(age)} ago"


def problem_lines(states: Mapping[str, RoutingFileState]) -> Iterator[str]:
    """Yield why the file as it is now is not live."""
    refused: dict[tuple[FileProblem, ...], list[str]] = {}
    for name, state in states.items():
        if state.problems:
            refused.setdefault(state.problems, []).append(name)
    for problems, names in refused.items():
        where = f" by {', '.join(names)}" if len(states) > 1 else ""
        yield f"the routing file as it is now is refused{where}; the revision above stays live:"
        yield from (f"  {problem}" for problem in problems)


def age_text(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

"""The routing file as each router process has it: the live revision, and why a later one is not live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from vllama_pool.router.telemetry.families import Family


class FileProblem(msgspec.Struct, frozen=True):
    """One problem of a refused routing file."""

    message: str
    """Reads "what is wrong; what to do"."""
    file: str
    line: int = 0
    """From 1; 0 is the whole file."""
    column: int = 0
    key: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class RoutingFileState(msgspec.Struct, frozen=True):
    file: str
    revision: str
    """Of the live table."""
    loaded: float
    """Unix seconds of the latest successful load."""
    reloads: int = 0
    """Tables that replaced an earlier one."""
    failures: int = 0
    """Loads that were refused."""
    refused: str = ""
    """Revision of a valid file that is not live; "" for none."""
    problems: tuple[FileProblem, ...] = ()
    """Of the latest load; empty if it succeeded."""


def router_name(index: int) -> str:
    """Return the name of a router process, as the supervisor prints it."""
    return f"router-{index}"


def routing_states(states: Mapping[int, RoutingFileState | None]) -> dict[str, RoutingFileState]:
    """Return the states by the names of their processes."""
    return {router_name(index): state for index, state in sorted(states.items()) if state is not None}


def routing_file_families(state: RoutingFileState) -> Iterator[Family]:
    """Yield the metrics of one process."""
    yield Family(
        "vllama_config_reload_success",
        "1 if the latest load of the routing file succeeded.",
        "gauge",
        series={(): float(not state.problems)},
    )
    yield Family(
        "vllama_config_reload_success_timestamp_seconds",
        "Unix time of the latest successful load of the routing file.",
        "gauge",
        series={(): state.loaded},
    )
    yield Family(
        "vllama_config_reloads_total",
        "Routing tables that replaced an earlier one.",
        "counter",
        series={(): float(state.reloads)},
    )
    yield Family(
        "vllama_config_reload_failures_total",
        "Loads of the routing file that were refused.",
        "counter",
        series={(): float(state.failures)},
    )
    yield Family(
        "vllama_config_revision_info",
        "1 for the live revision of the routing file.",
        "gauge",
        ("revision",),
        {(state.revision,): 1.0},
    )

"""Figures of one measured scenario. Pure."""

from __future__ import annotations

import msgspec

from tests.bench.rig import Load
from tests.bench.scenarios import Scenario


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario. `figures` maps names such as "cpu" to values; units are in `report.FIGURES`."""

    contender: str
    scenario: str
    other: float
    """Cores that other programs used meanwhile."""
    problem: str = ""
    figures: dict[str, float] = {}

    def counts(self, most_other: float) -> bool:
        return not self.problem and self.other <= most_other


def sample(contender: str, scenario: Scenario, load: Load, *, cpu: float, memory: int, other: float) -> Sample:
    """`cpu` is seconds, `other` cores, `memory` the growth in bytes while the streams were open."""
    figures: dict[str, float] = {"core": cpu / load.seconds, "rate": load.done / load.seconds}
    figures |= {"first_p50": load.first_p50, "first_p99": load.first_p99, "request_p50": load.request_p50}
    figures |= {"token_p50": load.token_p50, "token_p99": load.token_p99}
    figures |= {"gap_p99": load.gap_p99}
    if load.done:
        figures["cpu_request"] = cpu * 1e6 / load.done
    if load.tokens:
        figures["cpu_token"] = cpu * 1e6 / load.tokens
    if scenario.open_after:
        figures["memory"] = memory / 1024 / scenario.connections
    return Sample(
        contender=contender,
        scenario=scenario.name,
        other=other,
        problem=problem(scenario, load),
        figures=figures,
    )


def problem(scenario: Scenario, load: Load) -> str:
    if load.errors or load.refused:
        return f"{load.errors} lost connections, {load.refused} refusals"
    if load.done != scenario.requests:
        return f"{load.done} of {scenario.requests} requests within {scenario.limit} s"
    if scenario.stream and load.tokens != scenario.requests * scenario.answers.tokens:
        return f"{load.tokens} of {scenario.requests * scenario.answers.tokens} tokens arrived"
    return ""

"""A pytest plugin that prints counts and times by kind of test, and the figures that tests measured.

A kind is a folder directly below tests/. A test reports a figure by `record_property("figure", text)`.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest


class Kinds:
    """Collects reports by kind."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._figures: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind = kind_of(report.nodeid)
        self._seconds[kind] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[kind][report.outcome] += 1
        if report.when == "call":
            self._figures += [str(text) for name, text in report.user_properties if name == "figure"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._outcomes:
            return
        if self._figures:
            terminalreporter.section("figures")
        for text in self._figures:
            terminalreporter.write_line(text)
        terminalreporter.section("by kind")
        for kind, outcomes in sorted(self._outcomes.items()):
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            terminalreporter.write_line(f"{kind:<12} {self._seconds[kind]:7.1f} s   {counts}")


def kind_of(nodeid: str) -> str:
    """Return the kind of a node id: "unit" for "tests/unit/config/test_names.py::test_x"."""
    parts = nodeid.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Kinds(), "vllama-kinds")

"""One fleet for all tests beside this file: `vllama serve` with two real vLLMs, and `vllama worker` with a third.

It starts when a test first asks for it. Every test gets it whole: what another one has killed is ready again by
then. Those that kill come last, the end of `vllama serve` itself at the very end, so that little starts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet.main_job import Fleet, MainJob

ORDER = ("test_answers.py", "test_leaving.py", "test_registry.py", "test_draining.py", "test_killing.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ours by ORDER, among the places that they have; all others stay where they are."""
    here = Path(__file__).parent
    places = [index for index, item in enumerate(items) if item.path.parent == here]
    ours = sorted((items[index] for index in places), key=lambda item: ORDER.index(item.path.name))
    for index, item in zip(places, ours, strict=True):
        item.add_marker("main_job")
        items[index] = item


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the ends of the logs."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and fleet is not None:
        report.sections.append(("logs of the fleet", fleet.job.tail()))
    return report


@pytest.fixture(scope="session")
def main_job(
    tmp_path_factory: pytest.TempPathFactory, vllm_command: list[str], smollm2: Path, no_template: Path
) -> Iterator[MainJob]:
    """The programs, started when first asked for. At the end nothing of them may be left."""
    del vllm_command, smollm2  # they must be there, and `make run` knows where
    job = MainJob(tmp_path_factory.mktemp("main-job"), no_template)
    yield job
    job.end()


@pytest.fixture
def fleet(main_job: MainJob) -> Fleet:
    return main_job.whole()

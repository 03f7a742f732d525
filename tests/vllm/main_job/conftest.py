"""One fleet for all tests of this folder: `vllama serve` with two vLLMs, and `vllama worker` with a third.

The fixture `fleet` restarts what an earlier test has stopped. Tests that kill run last, so that little starts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet.main_job import Fleet, MainJob

ORDER = ("test_answers.py", "test_leaving.py", "test_registry.py", "test_draining.py", "test_killing.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of this folder by ORDER; leave all others in place."""
    here = Path(__file__).parent
    places = [index for index, item in enumerate(items) if item.path.parent == here]
    ours = sorted((items[index] for index in places), key=lambda item: ORDER.index(item.path.name))
    for index, item in zip(places, ours, strict=True):
        item.add_marker("main_job")
        items[index] = item


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the ends of the fleet's logs to a failure."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and fleet is not None:
        report.sections.append(("logs of the fleet", fleet.job.tail()))
    return report


@pytest.fixture(scope="session")
def main_job(
    tmp_path_factory: pytest.TempPathFactory, vllm_command: list[str], smollm2: Path, no_template: Path
) -> Iterator[MainJob]:
    """The fleet's processes, started on first use. Fails at the end if any process is left."""
    del vllm_command, smollm2  # they must be there, and `make run` knows where
    job = MainJob(tmp_path_factory.mktemp("main-job"), no_template)
    yield job
    job.end()


@pytest.fixture
def fleet(main_job: MainJob) -> Fleet:
    return main_job.whole()

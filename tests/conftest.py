"""Settings of all tests. Generated examples are the same on every run; HYPOTHESIS_PROFILE=explore draws new ones."""

import gc
import os
import signal

import pytest
from hypothesis import settings

gc.disable()  # while thousands of tests are collected, which saves a quarter of that time
pytest.register_assert_rewrite(
    *(f"tests.support.clients.{name}" for name in ("checks", "scenarios", "v1_scenarios")),
    *(f"tests.support.clients.{name}" for name in ("openai_scenarios", "anthropic_scenarios")),
)

settings.register_profile("steady", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_configure() -> None:
    """Let child processes receive SIGINT, which scripts ignore for background jobs, and SIGHUP, which nohup ignores."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, and keep those that make network namespaces in one process."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.xdist_group("netns"))


def pytest_collection_finish() -> None:
    """Spare the garbage collector thousands of tests and their modules: an eighth of the time of unit tests."""
    gc.enable()
    gc.collect()
    gc.freeze()
